/** The archive's header: identity, configuration files, devices. Encoding and checked decoding. */
import { hash } from 'node:crypto'
import { isAligned } from '../../bytes/range.ts'
import { BlockError } from '../../errors.ts'
import { BlobTable, blobAt, stringAt } from './blob-table.ts'
import {
  deviceInfo,
  extensionFeatures,
  extensionMagic,
  extensionVersion,
  formatVersion,
  headerMagic,
  headerStep,
  isVma,
  maxDeviceId,
  maxDeviceSize,
  maxHeaderSize,
  tableLength,
  vmaHeader,
  vmstateName,
} from './structures.ts'

export interface VmaConfig {
  readonly name: string
  readonly data: Uint8Array
}

export interface VmaDevice {
  /** 1 to 254. */
  readonly id: number
  readonly name: string
  /** Bytes. What a `vmstate` device holds may be shorter or longer. */
  readonly size: number
}

/** What varve adds to an archive. False when another program wrote it. */
export interface VmaExtensions {
  readonly checksums: boolean
  readonly index: boolean
}

export interface VmaHeader {
  /** 16 bytes. */
  readonly uuid: Uint8Array
  /** Seconds since the epoch. */
  readonly ctime: number
  readonly configs: readonly VmaConfig[]
  readonly devices: readonly VmaDevice[]
  readonly extensions: VmaExtensions
}

/** A header as it was read: with what ties the rest of the archive to it. */
export interface StoredHeader extends VmaHeader {
  /** Bytes; the first extent begins here. */
  readonly size: number
  readonly md5: Uint8Array
}

export function isVmstate(device: VmaDevice): boolean {
  return device.name === vmstateName
}

/** `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`. */
export function formatUuid(uuid: Uint8Array): string {
  const hex = Buffer.from(uuid).toString('hex')
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-')
}

export function encodeHeader(header: VmaHeader): Buffer {
  const blobs = new BlobTable()
  const configs = header.configs.map(({ name, data }) => ({
    name: blobs.addString(name),
    data: blobs.add(data),
  }))
  const devices = Buffer.alloc(deviceInfo.size * tableLength)
  for (const { id, name, size } of header.devices) {
    deviceInfo.encodeInto(devices, id * deviceInfo.size, {
      nameOffset: blobs.addString(name),
      reserved1: 0,
      size: BigInt(size),
      reserved2: new Uint8Array(),
    })
  }
  const headerSize = vmaHeader.size + blobs.padded.length
  if (headerSize > maxHeaderSize) {
    throw new BlockError(
      'INVALID_ARGUMENT',
      `the configuration files need a header of ${headerSize} bytes; ${maxHeaderSize} is the most`,
    )
  }
  const encoded = Buffer.alloc(headerSize)
  vmaHeader.encodeInto(encoded, 0, {
    ...fixedFields,
    ...encodeExtensions(header.extensions),
    uuid: header.uuid,
    ctime: header.ctime,
    blobBufferSize: blobs.used,
    headerSize,
    configNames: padTable(configs.map((config) => config.name)),
    configData: padTable(configs.map((config) => config.data)),
    deviceInfo: devices,
  })
  encoded.set(blobs.padded, vmaHeader.size)
  encoded.set(digestWithout(encoded, vmaHeader.offsets.md5), vmaHeader.offsets.md5)
  return encoded
}

const fixedFields = {
  magic: headerMagic,
  version: formatVersion,
  md5: new Uint8Array(),
  blobBufferOffset: vmaHeader.size,
  reserved1: new Uint8Array(),
  reserved2: new Uint8Array(),
  reserved3: new Uint8Array(),
}

function encodeExtensions({ checksums, index }: VmaExtensions) {
  const present = checksums || index
  return {
    extensionMagic: present ? extensionMagic : new Uint8Array(),
    extensionVersion: present ? extensionVersion : 0,
    extensionFeatures:
      (checksums ? extensionFeatures.checksums : 0) + (index ? extensionFeatures.index : 0),
  }
}

function padTable(offsets: readonly number[]): number[] {
  return [...offsets, ...Array<number>(tableLength - offsets.length).fill(0)]
}

/**
 * Bytes of the whole header, from its fixed part (`vmaHeader.size` bytes). Everything that is
 * needed before the rest may be read is checked here.
 */
export function checkHeaderStart(fixed: Uint8Array): number {
  if (!isVma(fixed)) throw new BlockError('NOT_RECOGNISED', 'not a VMA archive', { offset: 0 })
  const { version, headerSize, blobBufferOffset, blobBufferSize } = vmaHeader.decode(fixed)
  if (version !== formatVersion) {
    throw new BlockError('UNSUPPORTED', `VMA version ${version}; only ${formatVersion} is known`, {
      offset: vmaHeader.offsets.version,
    })
  }
  if (
    headerSize < vmaHeader.size ||
    headerSize > maxHeaderSize ||
    !isAligned(headerSize, headerStep)
  ) {
    throw new BlockError(
      'CORRUPT_IMAGE',
      `the header claims ${headerSize} bytes: not a multiple of 512 from ${vmaHeader.size} to ${maxHeaderSize}`,
      { offset: vmaHeader.offsets.headerSize },
    )
  }
  if (blobBufferOffset < vmaHeader.size || blobBufferOffset + blobBufferSize > headerSize) {
    throw new BlockError(
      'CORRUPT_IMAGE',
      `the blob table, ${blobBufferSize} bytes at ${blobBufferOffset}, is not inside the header of ${headerSize}`,
      { offset: vmaHeader.offsets.blobBufferOffset },
    )
  }
  return headerSize
}

/** Decodes a whole header whose start was checked; copies what it keeps. */
export function decodeHeader(encoded: Buffer): StoredHeader {
  const fields = vmaHeader.decode(encoded)
  if (!digestWithout(encoded, vmaHeader.offsets.md5).equals(fields.md5)) {
    throw new BlockError('CORRUPT_IMAGE', 'the header is damaged: its MD5 does not match', {
      offset: 0,
    })
  }
  const tableOffset = fields.blobBufferOffset
  const table = encoded.subarray(tableOffset, tableOffset + fields.blobBufferSize)
  return {
    size: fields.headerSize,
    md5: fields.md5,
    uuid: fields.uuid,
    ctime: fields.ctime,
    configs: decodeConfigs(fields.configNames, fields.configData, table, tableOffset),
    devices: decodeDevices(fields.deviceInfo, table, tableOffset),
    extensions: decodeExtensions(fields),
  }
}

function decodeConfigs(names: number[], data: number[], table: Buffer, tableOffset: number) {
  const configs: VmaConfig[] = []
  for (let index = 0; index < tableLength; index++) {
    if (names[index] === 0 && data[index] === 0) continue
    const what = `configuration file ${index}`
    if (names[index] === 0 || data[index] === 0) {
      throw new BlockError('CORRUPT_IMAGE', `${what} has a name or data, but not both`, {
        offset: vmaHeader.offsets.configNames + 4 * index,
      })
    }
    configs.push({
      name: stringAt(table, names[index], tableOffset, `the name of ${what}`),
      data: Uint8Array.from(blobAt(table, data[index], tableOffset, what)),
    })
  }
  return configs
}

function decodeDevices(encoded: Uint8Array, table: Buffer, tableOffset: number): VmaDevice[] {
  const devices: VmaDevice[] = []
  for (let id = 0; id < tableLength; id++) {
    const { nameOffset, size } = deviceInfo.decode(encoded, id * deviceInfo.size)
    if (nameOffset === 0 && size === 0n) continue
    const offset = vmaHeader.offsets.deviceInfo + id * deviceInfo.size
    if (nameOffset === 0 || size === 0n || id === 0 || id > maxDeviceId) {
      throw new BlockError('CORRUPT_IMAGE', `device ${id} has an invalid entry`, { offset })
    }
    if (size > maxDeviceSize) {
      throw new BlockError(
        'CORRUPT_IMAGE',
        `device ${id} claims ${size} bytes; an archive can hold ${maxDeviceSize}`,
        { offset },
      )
    }
    const name = stringAt(table, nameOffset, tableOffset, `the name of device ${id}`)
    devices.push({ id, name, size: Number(size) })
  }
  return devices
}

function decodeExtensions(fields: {
  extensionMagic: Uint8Array
  extensionVersion: number
  extensionFeatures: number
}): VmaExtensions {
  const known =
    Buffer.compare(fields.extensionMagic, extensionMagic) === 0 &&
    fields.extensionVersion === extensionVersion
  const has = (bit: number) => known && (fields.extensionFeatures & bit) !== 0
  return { checksums: has(extensionFeatures.checksums), index: has(extensionFeatures.index) }
}

/** MD5 of a structure whose 16-byte MD5 field at `field` counts as zero. Leaves the bytes alone. */
export function digestWithout(bytes: Buffer, field: number): Buffer {
  const stored = Buffer.from(bytes.subarray(field, field + md5Size))
  bytes.fill(0, field, field + md5Size)
  const digest = hash('md5', bytes, 'buffer')
  stored.copy(bytes, field)
  return digest
}

const md5Size = 16
