/**
 * VMA structures, names and limits, as the published format description has them. All integers
 * are big-endian, apart from the 16-bit length in front of each blob. `docs/formats/vma.md` holds
 * the whole picture, including what varve adds in places that other readers ignore.
 */
import { KiB } from '../../bytes/range.ts'
import { array, bits64, bytes, i64, struct, u16, u32 } from '../../bytes/struct.ts'

/** Unit of addressing: each is stored once per device. */
export const clusterSize = 64 * KiB
/** Unit of storing: only blocks that hold something other than zeroes are kept. */
export const blockSize = 4 * KiB
export const blocksPerCluster = clusterSize / blockSize
export const fullMask = 2 ** blocksPerCluster - 1

/** Slots of an extent header, and how many of them a writer fills with clusters. */
export const slotsPerExtent = 59
export const clustersPerExtent = 58
/** Where varve puts the checksum of the extent's data: the slot that writers leave free. */
export const checksumSlot = 58

export const headerMagic = new Uint8Array([0x56, 0x4d, 0x41, 0x00]) // 'VMA\0'
export const extentMagic = new Uint8Array([0x56, 0x4d, 0x41, 0x45]) // 'VMAE'
export const formatVersion = 1

/** Header tables have 256 entries; device 0 marks a free slot and 255 is never used. */
export const tableLength = 256
export const maxConfigs = 256
export const maxDeviceId = 254
/** Header and blob table together. */
export const maxHeaderSize = 512 * KiB
export const headerStep = 512
/** The length of a blob has 16 bits. */
export const maxBlobSize = 65_535
/** Cluster numbers have 32 bits: 256 TiB. */
export const maxDeviceClusters = 2 ** 32
export const maxDeviceSize = maxDeviceClusters * clusterSize
/** The device of this name holds RAM state: a stream of clusters 0, 1, 2, …, of any length. */
export const vmstateName = 'vmstate'

export const vmaHeader = struct('big', {
  magic: bytes(4),
  version: u32,
  uuid: bytes(16),
  ctime: i64, // seconds since the epoch
  md5: bytes(16), // of the whole header, this field being zero
  blobBufferOffset: u32,
  blobBufferSize: u32, // bytes used
  headerSize: u32, // a multiple of 512
  reserved1: bytes(4),
  // The next three are varve's: other readers skip these reserved bytes.
  extensionMagic: bytes(8),
  extensionVersion: u32,
  extensionFeatures: u32,
  reserved2: bytes(1964),
  configNames: array(u32, tableLength), // offsets in the blob table, 0: none
  configData: array(u32, tableLength),
  reserved3: bytes(4),
  deviceInfo: bytes(32 * tableLength),
})

/** One entry of `deviceInfo`; its index is the device's id. */
export const deviceInfo = struct('big', {
  nameOffset: u32, // in the blob table, 0: no such device
  reserved1: u32,
  size: bits64, // bytes; a bigint, so that absurd sizes can be named in the error
  reserved2: bytes(16),
})

export const extentHeader = struct('big', {
  magic: bytes(4),
  reserved: u16,
  blockCount: u16, // 4 KiB blocks that follow
  uuid: bytes(16),
  md5: bytes(16), // of these 512 bytes, this field being zero
  slots: bytes(8 * slotsPerExtent),
})

/** One slot, read and written by hand because there is one for each cluster. */
export const slotOffsets = { mask: 0, reserved: 2, deviceId: 3, cluster: 4, size: 8 } as const

export const maxExtentBlocks = slotsPerExtent * blocksPerCluster
export const maxExtentSize = extentHeader.size + maxExtentBlocks * blockSize

/** 'VARVEEXT' in the reserved part of the header: what varve adds to this archive. */
export const extensionMagic = new Uint8Array(Buffer.from('VARVEEXT'))
export const extensionVersion = 1
export const extensionFeatures = {
  /** Every extent that is not part of the index carries a checksum of its data. */
  checksums: 1,
  /** The archive ends with an index; without it, it is truncated. */
  index: 2,
} as const

/** What the mask and the reserved byte of a checksum slot hold. */
export const checksumMark = 0x4353 // 'CS'
export const checksumAlgorithm = 1 // CRC-32 as in gzip and zlib

/** Whether an archive begins with these bytes. */
export function isVma(head: Uint8Array): boolean {
  return Buffer.compare(head.subarray(0, headerMagic.length), headerMagic) === 0
}
