/** Requests to a block device, and its configuration (virtio 1.1, 5.2). Little-endian. */
import { anyU64, bytes, struct, u8, u16, u32, u64 } from '../../bytes/struct.ts'

export const sectorSize = 512

/** Bits of features that are the block device's. */
export const blockFeature = {
  sizeMax: 1,
  segMax: 2,
  readOnly: 5,
  blockSize: 6,
  flush: 9,
  topology: 10,
  configWce: 11,
  multiQueue: 12,
  discard: 13,
  writeZeroes: 14,
} as const

export const requestType = {
  in: 0,
  out: 1,
  flush: 4,
  getId: 8,
  discard: 11,
  writeZeroes: 13,
} as const

/** A bit of the type that had a meaning once. */
export const barrier = 0x80000000

export const requestStatus = { ok: 0, ioError: 1, unsupported: 2 } as const

/** In front of every request. */
export const requestHeader = { size: 16, type: 0, sector: 8 } as const

/** Bytes of the answer to `getId`; shorter ones end with a zero. */
export const idLength = 20

/** What `discard` and `writeZeroes` are about. */
export const segment = struct('little', { sector: anyU64, sectors: u32, flags: u32 })

/** Flag of a segment of `writeZeroes`. */
export const segmentUnmap = 1

export const blockConfig = struct('little', {
  /** Sectors of 512 bytes. */
  capacity: u64,
  sizeMax: u32,
  segMax: u32,
  cylinders: u16,
  heads: u8,
  sectors: u8,
  blockSize: u32,
  physicalBlockExponent: u8,
  alignmentOffset: u8,
  minIoSize: u16,
  optIoSize: u32,
  /** Whether there is a write cache, to be flushed. The driver may write it. */
  writeback: u8,
  unused0: u8,
  queues: u16,
  maxDiscardSectors: u32,
  maxDiscardSegments: u32,
  discardSectorAlignment: u32,
  maxWriteZeroesSectors: u32,
  maxWriteZeroesSegments: u32,
  writeZeroesMayUnmap: u8,
  unused1: bytes(3),
})
