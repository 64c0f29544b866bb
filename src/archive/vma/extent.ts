/**
 * Extents: up to 59 clusters, of one or several devices, behind a header of 512 bytes. A builder
 * gathers clusters for the writer; `decodeExtent` checks and lists what a reader finds.
 */
import { crc32 } from 'node:zlib'
import { viewOf } from '../../bytes/view.ts'
import { zeroes } from '../../bytes/zero.ts'
import { BlockError } from '../../errors.ts'
import { digestWithout } from './header.ts'
import {
  blockSize,
  blocksPerCluster,
  checksumAlgorithm,
  checksumMark,
  checksumSlot,
  clusterSize,
  clustersPerExtent,
  extentHeader,
  extentMagic,
  slotOffsets,
  slotsPerExtent,
} from './structures.ts'

const { offsets } = extentHeader

/** Bytes of a builder's buffer: the largest extent that a writer makes. */
export const builtExtentSize = extentHeader.size + clustersPerExtent * clusterSize

export class ExtentBuilder {
  /** The extent; the first `length` bytes are in use. */
  readonly bytes: Buffer
  readonly #view: DataView
  #length = extentHeader.size
  #slots = 0
  #crc = 0

  constructor() {
    this.bytes = Buffer.alloc(builtExtentSize)
    this.#view = viewOf(this.bytes)
  }

  get length(): number {
    return this.#length
  }

  get empty(): boolean {
    return this.#slots === 0
  }

  get full(): boolean {
    return this.#slots === clustersPerExtent
  }

  /** Begins a new extent in the same memory. */
  reset(): void {
    this.bytes.fill(0, 0, extentHeader.size)
    this.#length = extentHeader.size
    this.#slots = 0
    this.#crc = 0
  }

  /**
   * Adds a cluster, copying its blocks. `data` has at most 64 KiB; undefined stands for zeroes.
   * `keepZeroes` stores zero blocks too. Returns how many bytes of `data` lie in blocks of zeroes.
   */
  add(
    deviceId: number,
    cluster: number,
    data: Uint8Array | undefined,
    keepZeroes: boolean,
  ): number {
    const start = this.#length
    let zeroBytes = 0
    let mask = 0
    if (data) {
      const whole = data.length - (data.length % blockSize)
      const source = Buffer.from(data.buffer, data.byteOffset, data.length)
      for (let at = 0, bit = 1; at < data.length; at += blockSize, bit *= 2) {
        const end = at < whole ? at + blockSize : data.length
        const zero = isZeroBlock(source, at, end)
        if (zero) zeroBytes += end - at
        if (zero && !keepZeroes) continue
        mask += bit
        this.#append(source, at, end)
      }
    }
    this.#crc = crc32(this.bytes.subarray(start, this.#length), this.#crc)
    this.#setSlot(this.#slots++, mask, 0, deviceId, cluster)
    return zeroBytes
  }

  /** Fills in the header. Afterwards `bytes` up to `length` is a whole extent. */
  finish(uuid: Uint8Array, withChecksum: boolean): Buffer {
    if (withChecksum) {
      this.#setSlot(checksumSlot, checksumMark, checksumAlgorithm, 0, this.#crc)
    }
    this.#view.setUint16(offsets.blockCount, (this.#length - extentHeader.size) / blockSize)
    sealExtentHeader(this.bytes, uuid)
    return this.bytes.subarray(0, this.#length)
  }

  #append(source: Buffer, at: number, end: number): void {
    source.copy(this.bytes, this.#length, at, end)
    if (end - at < blockSize) this.bytes.fill(0, this.#length + end - at, this.#length + blockSize)
    this.#length += blockSize
  }

  #setSlot(slot: number, mask: number, reserved: number, deviceId: number, cluster: number): void {
    const at = offsets.slots + slot * slotOffsets.size
    this.#view.setUint16(at + slotOffsets.mask, mask)
    this.#view.setUint8(at + slotOffsets.reserved, reserved)
    this.#view.setUint8(at + slotOffsets.deviceId, deviceId)
    this.#view.setUint32(at + slotOffsets.cluster, cluster)
  }
}

const zeroBuffer = Buffer.from(zeroes.buffer, 0, blockSize)

/** One look at the first byte spares most blocks the call. */
function isZeroBlock(source: Buffer, at: number, end: number): boolean {
  return source[at] === 0 && zeroBuffer.compare(source, at, end, 0, end - at) === 0
}

/** Writes magic, uuid and MD5 into the first 512 bytes of `extent`. */
export function sealExtentHeader(extent: Buffer, uuid: Uint8Array): void {
  const header = extent.subarray(0, extentHeader.size)
  header.set(extentMagic, offsets.magic)
  header.set(uuid, offsets.uuid)
  header.set(digestWithout(header, offsets.md5), offsets.md5)
}

export interface StoredCluster {
  readonly deviceId: number
  readonly cluster: number
  /** Bit 0 set: the first 4 KiB block of the cluster is stored. */
  readonly mask: number
  /** Byte offset of the first stored block behind the extent's header. */
  readonly dataOffset: number
}

export interface DecodedExtent {
  readonly clusters: readonly StoredCluster[]
  /** Bytes of data behind the header. */
  readonly dataSize: number
  /** CRC-32 of the data; undefined when the extent carries none. */
  readonly checksum: number | undefined
  readonly md5: Uint8Array
}

/**
 * Checks the 512 bytes in `header` and lists the clusters. `at` is their offset in the archive,
 * for messages.
 */
export function decodeExtent(header: Buffer, uuid: Uint8Array, at: number): DecodedExtent {
  const fields = extentHeader.decode(header)
  const fail = (what: string, field = 0) =>
    new BlockError('CORRUPT_IMAGE', `the extent at byte ${at} ${what}`, { offset: at + field })
  if (Buffer.compare(fields.magic, extentMagic) !== 0) throw fail('has no extent header')
  if (!digestWithout(header, offsets.md5).equals(fields.md5)) {
    throw fail('is damaged: the MD5 of its header does not match', offsets.md5)
  }
  if (Buffer.compare(fields.uuid, uuid) !== 0) {
    throw fail('belongs to another archive: its uuid differs', offsets.uuid)
  }
  if (fields.reserved !== 0) throw fail('has bits set in a reserved field', offsets.reserved)
  const clusters = decodeSlots(header)
  const blocks = clusters.reduce((sum, { mask }) => sum + countBits(mask), 0)
  if (blocks !== fields.blockCount) {
    throw fail(
      `counts ${fields.blockCount} blocks, its clusters have ${blocks}`,
      offsets.blockCount,
    )
  }
  return {
    clusters,
    dataSize: blocks * blockSize,
    checksum: checksumOf(viewOf(header)),
    md5: fields.md5,
  }
}

function decodeSlots(header: Buffer): StoredCluster[] {
  const clusters: StoredCluster[] = []
  let dataOffset = 0
  for (let slot = 0; slot < slotsPerExtent; slot++) {
    const at = offsets.slots + slot * slotOffsets.size
    const deviceId = header[at + slotOffsets.deviceId]
    if (deviceId === 0) continue
    const mask = header.readUInt16BE(at + slotOffsets.mask)
    const cluster = header.readUInt32BE(at + slotOffsets.cluster)
    clusters.push({ deviceId, cluster, mask, dataOffset })
    dataOffset += countBits(mask) * blockSize
  }
  return clusters
}

function checksumOf(view: DataView): number | undefined {
  const at = offsets.slots + checksumSlot * slotOffsets.size
  const present =
    view.getUint16(at + slotOffsets.mask) === checksumMark &&
    view.getUint8(at + slotOffsets.reserved) === checksumAlgorithm &&
    view.getUint8(at + slotOffsets.deviceId) === 0
  return present ? view.getUint32(at + slotOffsets.cluster) : undefined
}

/** Set bits of a mask of 16. */
export function countBits(mask: number): number {
  let count = 0
  for (let rest = mask; rest !== 0; rest &= rest - 1) count++
  return count
}

/** The mask of those blocks of a cluster that begin before `length` bytes. */
export function maskOf(length: number): number {
  return 2 ** Math.min(blocksPerCluster, Math.ceil(length / blockSize)) - 1
}
