/**
 * The directory of persistent bitmaps: what the image stores of each besides its bits, and where
 * those lie. Decoding takes nothing on trust; whatever is not understood is refused, because an
 * image that is written to without its bitmaps being kept up to date would betray backups.
 */
import { maxGranularity, minGranularity } from '../../bitmap/dirty-bitmap.ts'
import { plainIo } from '../../block/layer.ts'
import { alignUp, type ByteRange } from '../../bytes/range.ts'
import { struct, u8, u16, u32, u64 } from '../../bytes/struct.ts'
import { extensionType, type HeaderExtension } from './extensions.ts'
import { type Faults, hex } from './faults.ts'
import { autoclear, type Header } from './header.ts'
import type { ImageFile } from './image-file.ts'
import { entrySize } from './l2-table.ts'
import {
  maxBitmapBytes,
  maxBitmapDirectoryBytes,
  maxBitmapNameBytes,
  maxBitmaps,
  maxBitmapTableBytes,
} from './limits.ts'

const bitmapsExtension = struct('big', {
  nbBitmaps: u32,
  reserved: u32,
  directorySize: u64,
  directoryOffset: u64,
})

const directoryEntry = struct('big', {
  tableOffset: u64,
  /** Entries. */
  tableSize: u32,
  flags: u32,
  type: u8,
  granularityBits: u8,
  nameSize: u16,
  extraDataSize: u32,
})

const flag = { inUse: 1, auto: 2, extraDataCompatible: 4 } as const
const reservedFlags = ~(flag.inUse | flag.auto | flag.extraDataCompatible) >>> 0

/** The only type there is. */
const dirtyTracking = 1

export interface BitmapEntry {
  readonly name: string
  readonly tableOffset: number
  /** Entries. */
  readonly tableSize: number
  readonly inUse: boolean
  readonly auto: boolean
  readonly granularityBits: number
  /** What nobody knows here, but may be left as it is. */
  readonly extraData: Uint8Array
}

export interface BitmapDirectory {
  readonly offset: number
  readonly length: number
  readonly entries: readonly BitmapEntry[]
}

/** Where the directory lies, whatever is to be thought of what it says. */
export function readBitmapPlace(header: Header): ByteRange | undefined {
  const extension = validExtension(header)
  if (!extension || extension.data.length < bitmapsExtension.size) return undefined
  const { directorySize, directoryOffset } = bitmapsExtension.decode(extension.data)
  return { offset: directoryOffset, length: Math.min(directorySize, maxBitmapDirectoryBytes) }
}

/** The directory of bitmaps that are to be trusted; undefined where there are none. */
export async function readBitmapDirectory(
  file: ImageFile,
  header: Header,
  faults: Faults,
): Promise<BitmapDirectory | undefined> {
  const extension = validExtension(header)
  if (!extension) return undefined
  const { offset, length, count } = decodeExtension(extension, header, file.size, faults)
  const bytes = new Uint8Array(length)
  await file.read(offset, bytes, plainIo)
  return { offset, length, entries: decodeEntries(bytes, count, offset, header, faults) }
}

/** Whoever writes to an image without keeping its bitmaps clears the bit. */
function validExtension(header: Header): HeaderExtension | undefined {
  if ((header.autoclearFeatures & autoclear.bitmaps) === 0n) return undefined
  return header.extensions.find(({ type }) => type === extensionType.bitmaps)
}

export function encodeDirectory(entries: readonly BitmapEntry[]): Uint8Array {
  return Buffer.concat(entries.map(encodeEntry))
}

export function encodeExtension(directory: BitmapDirectory): HeaderExtension {
  const data = bitmapsExtension.encode({
    nbBitmaps: directory.entries.length,
    reserved: 0,
    directorySize: directory.length,
    directoryOffset: directory.offset,
  })
  return { type: extensionType.bitmaps, data }
}

/** Bytes that an entry takes in the directory. */
export function entryLength(name: string, extraDataSize = 0): number {
  return alignUp(directoryEntry.size + extraDataSize + Buffer.byteLength(name), 8)
}

function encodeEntry(entry: BitmapEntry): Uint8Array {
  const { name, extraData } = entry
  const bytes = new Uint8Array(entryLength(name, extraData.length))
  directoryEntry.encodeInto(bytes, 0, {
    tableOffset: entry.tableOffset,
    tableSize: entry.tableSize,
    flags:
      (entry.inUse ? flag.inUse : 0) +
      (entry.auto ? flag.auto : 0) +
      (extraData.length > 0 ? flag.extraDataCompatible : 0),
    type: dirtyTracking,
    granularityBits: entry.granularityBits,
    nameSize: Buffer.byteLength(name),
    extraDataSize: extraData.length,
  })
  bytes.set(extraData, directoryEntry.size)
  bytes.set(Buffer.from(name), directoryEntry.size + extraData.length)
  return bytes
}

function decodeExtension(
  { data }: HeaderExtension,
  header: Header,
  fileSize: number,
  faults: Faults,
): { offset: number; length: number; count: number } {
  const refuse = (message: string) => faults.refuse('CORRUPT_IMAGE', `bitmaps_ext: ${message}`)
  if (data.length !== bitmapsExtension.size) throw refuse('Invalid extension length')
  const { nbBitmaps, reserved, directorySize, directoryOffset } = bitmapsExtension.decode(data)
  if (reserved !== 0) throw refuse('Reserved field is not zero')
  if (nbBitmaps > maxBitmaps) {
    throw refuse(
      `image has ${nbBitmaps} bitmaps, exceeding the QEMU supported maximum of ${maxBitmaps}`,
    )
  }
  if (nbBitmaps === 0) throw refuse('found bitmaps extension with zero bitmaps')
  if (directoryOffset % 2 ** header.clusterBits !== 0) {
    throw refuse('invalid bitmap directory offset')
  }
  if (directorySize > maxBitmapDirectoryBytes) {
    throw refuse(
      `bitmap directory size (${directorySize}) exceeds the maximum supported size (${maxBitmapDirectoryBytes})`,
    )
  }
  if (directoryOffset === 0 || directoryOffset + directorySize > fileSize) {
    throw refuse(`the bitmap directory at ${hex(directoryOffset)} does not lie in the file`)
  }
  return { offset: directoryOffset, length: directorySize, count: nbBitmaps }
}

function decodeEntries(
  bytes: Uint8Array,
  count: number,
  offset: number,
  header: Header,
  faults: Faults,
): BitmapEntry[] {
  const entries: BitmapEntry[] = []
  let at = 0
  for (; at < bytes.length && entries.length < count; ) {
    const refuse = (message: string) =>
      faults.refuse('CORRUPT_IMAGE', `Broken bitmap directory: ${message}`, offset + at)
    if (at + directoryEntry.size > bytes.length) throw refuse('its last entry is cut off')
    const { nameSize, extraDataSize, ...fields } = directoryEntry.decode(bytes, at)
    const nameAt = at + directoryEntry.size + extraDataSize
    const end = alignUp(nameAt + nameSize, 8)
    if (end > bytes.length) throw refuse('its last entry is cut off')
    if (extraDataSize > 0 && (fields.flags & flag.extraDataCompatible) === 0) {
      throw faults.refuse('UNSUPPORTED', 'Bitmap extra data is not supported', offset + at)
    }
    const entry: BitmapEntry = {
      name: Buffer.from(bytes.subarray(nameAt, nameAt + nameSize)).toString('utf8'),
      tableOffset: fields.tableOffset,
      tableSize: fields.tableSize,
      inUse: (fields.flags & flag.inUse) !== 0,
      auto: (fields.flags & flag.auto) !== 0,
      granularityBits: fields.granularityBits,
      extraData: bytes.slice(at + directoryEntry.size, nameAt),
    }
    const fault = faultOf(entry, fields.type, fields.flags, header)
    if (fault !== undefined) throw refuse(`bitmap '${printable(entry.name)}' ${fault}`)
    if (Buffer.byteLength(entry.name) !== nameSize) throw refuse('a name is not in UTF-8')
    entries.push(entry)
    at = end
  }
  if (entries.length !== count || at !== bytes.length) {
    throw faults.refuse(
      'CORRUPT_IMAGE',
      'Broken bitmap directory: its length and the number of bitmaps do not agree',
      offset,
    )
  }
  if (new Set(entries.map(({ name }) => name)).size !== count) {
    throw faults.refuse('CORRUPT_IMAGE', 'Broken bitmap directory: a name appears twice', offset)
  }
  return entries
}

function faultOf(
  entry: BitmapEntry,
  type: number,
  flags: number,
  header: Header,
): string | undefined {
  const { tableOffset, tableSize, granularityBits, name } = entry
  const clusterSize = 2 ** header.clusterBits
  const granularity = 2 ** granularityBits
  const bytes = tableSize * clusterSize
  if (type !== dirtyTracking) return `is of the unknown type ${type}`
  if ((flags & reservedFlags) !== 0) return `has unknown flags (${hex(flags)})`
  if (name === '' || Buffer.byteLength(name) > maxBitmapNameBytes) return 'has an impossible name'
  if (granularity < minGranularity || granularity > maxGranularity) {
    return `has a granularity of 2^${granularityBits}`
  }
  if (tableOffset === 0 || tableOffset % clusterSize !== 0) {
    return `has a table at ${hex(tableOffset)}, not a multiple of ${clusterSize}`
  }
  if (tableSize === 0 || tableSize * entrySize > maxBitmapTableBytes || bytes > maxBitmapBytes) {
    return `has a table of ${tableSize} entries`
  }
  // While in use the disk may have been resized without the bitmap.
  if (!entry.inUse && tableSize !== tableSizeFor(header, granularity)) {
    return `has a table of ${tableSize} entries, which does not fit the disk`
  }
  return undefined
}

/** Entries of the table of a bitmap. */
export function tableSizeFor(header: Header, granularity: number): number {
  const bits = Math.ceil(header.size / granularity)
  return Math.max(1, Math.ceil(Math.ceil(bits / 8) / 2 ** header.clusterBits))
}

/** Names come from strangers and go to terminals. */
function printable(name: string): string {
  return name.slice(0, 80).replace(/[^\x20-\x7e]/g, '?')
}
