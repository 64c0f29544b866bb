/**
 * The directory of persistent bitmaps: what the image stores of each besides its bits, and where
 * those lie. Decoding takes nothing on trust; whatever is not understood is refused, because an
 * image that is written to without its bitmaps being kept up to date would betray backups.
 */
import { maxGranularity, minGranularity } from '../../bitmap/dirty-bitmap.ts'
import { plainIo } from '../../block/layer.ts'
import { alignUp, type ByteRange } from '../../bytes/range.ts'
import { struct, u8, u16, u32, u64 } from '../../bytes/struct.ts'
import { viewOf } from '../../bytes/view.ts'
import { BlockError } from '../../errors.ts'
import { extensionType, type HeaderExtension } from './extensions.ts'
import type { Faults } from './faults.ts'
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
  const { offset, length, count } = decodeExtension(extension, header, faults)
  const bytes = await readDirectory(file, offset, length)
  return { offset, length, entries: decodeEntries(bytes, count, offset, header, faults) }
}

/** What can be kept of a directory, and what is wrong with the rest of it. */
export interface ScannedDirectory {
  /** Where it lies; 0 and nothing where that is not known. */
  readonly offset: number
  readonly length: number
  readonly entries: readonly BitmapEntry[]
  readonly messages: readonly string[]
}

/** As `readBitmapDirectory`, whatever is wrong. */
export async function scanBitmapDirectory(
  file: ImageFile,
  header: Header,
  faults: Faults,
): Promise<ScannedDirectory | undefined> {
  const extension = validExtension(header)
  if (!extension) return undefined
  let place: ReturnType<typeof decodeExtension>
  try {
    place = decodeExtension(extension, header, faults)
  } catch (error) {
    if (!(error instanceof BlockError)) throw error
    return { offset: 0, length: 0, entries: [], messages: [error.message] }
  }
  const bytes = await readDirectory(file, place.offset, place.length)
  const { entries, broken } = scanEntries(bytes, place.count, header)
  return { ...place, entries, messages: broken.map(({ message }) => message) }
}

/**
 * The directory; of what lies behind the end of the file only as much as it takes to find the
 * first entry there, of zeroes, which is broken.
 */
async function readDirectory(file: ImageFile, offset: number, length: number): Promise<Uint8Array> {
  const inside = alignUp(Math.max(0, file.size - offset), 8)
  const bytes = new Uint8Array(Math.min(length, inside + 2 * directoryEntry.size))
  await file.read(offset, bytes, plainIo)
  return bytes
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
  if (directoryOffset === 0) throw refuse('invalid bitmap directory offset')
  return { offset: directoryOffset, length: directorySize, count: nbBitmaps }
}

/** All entries; throws for the first that is not to be trusted. */
function decodeEntries(
  bytes: Uint8Array,
  count: number,
  offset: number,
  header: Header,
  faults: Faults,
): BitmapEntry[] {
  const { entries, broken } = scanEntries(bytes, count, header)
  const first = broken.find(({ late }) => !late) ?? broken[0]
  if (!first) return entries
  const { at, message, unsupported } = first
  throw faults.refuse(unsupported ? 'UNSUPPORTED' : 'CORRUPT_IMAGE', message, offset + at)
}

/** Why an entry, or all from some place on, are not to be trusted. */
interface BrokenEntry {
  /** Byte of the directory. */
  readonly at: number
  readonly message: string
  /** It may make sense to somebody. */
  readonly unsupported: boolean
  /** QEMU sees it only when the directory is sound otherwise. */
  readonly late: boolean
}

interface ScannedEntries {
  /** Those that are sound. */
  readonly entries: BitmapEntry[]
  readonly broken: BrokenEntry[]
}

function scanEntries(bytes: Uint8Array, count: number, header: Header): ScannedEntries {
  const entries: BitmapEntry[] = []
  const broken: BrokenEntry[] = []
  const names = new Set<string>()
  const refuse = (at: number, message: string, { unsupported = false, late = false } = {}) =>
    broken.push({ at, message, unsupported, late })
  const view = viewOf(bytes)
  let at = 0
  for (let found = 0; at < bytes.length; found++) {
    if (found === count) {
      refuse(at, 'More bitmaps found than specified in header extension')
      return { entries, broken }
    }
    if (at + directoryEntry.size > bytes.length) {
      refuse(at, 'Broken bitmap directory')
      return { entries, broken }
    }
    const extraDataSize = view.getUint32(at + directoryEntry.offsets.extraDataSize)
    const nameAt = at + directoryEntry.size + extraDataSize
    const nameEnd = nameAt + view.getUint16(at + directoryEntry.offsets.nameSize)
    const flags = view.getUint32(at + directoryEntry.offsets.flags)
    const unknownExtra = extraDataSize > 0 && (flags & flag.extraDataCompatible) === 0
    if (alignUp(nameEnd, 8) > bytes.length) {
      // From 2 GiB on qemu-img sees the extra data first.
      if (alignUp(nameEnd - at, 8) < 2 ** 31) refuse(at, 'Broken bitmap directory')
      else refuse(at, 'Bitmap extra data is not supported', { unsupported: true })
      return { entries, broken }
    }
    if (unknownExtra) refuse(at, 'Bitmap extra data is not supported', { unsupported: true })
    const entry = decodeEntry(bytes, at, nameAt, nameEnd, header)
    if (!entry && !unknownExtra) {
      const name = printable(Buffer.from(bytes.subarray(nameAt, nameEnd)).toString('utf8'))
      refuse(at, `Bitmap '${name}' doesn't satisfy the constraints`)
    } else if (entry && !unknownExtra) {
      const fault = faultAmongOthers(entry, names, header)
      if (fault === undefined) entries.push(entry)
      else refuse(at, fault, { late: true })
      names.add(entry.name)
    }
    at = alignUp(nameEnd, 8)
  }
  if (entries.length + broken.length < count) {
    refuse(at, 'Less bitmaps found than specified in header extension')
  }
  return { entries, broken }
}

/** What is wrong with an entry that is sound by itself; `names`: of those before it. */
function faultAmongOthers(
  entry: BitmapEntry,
  names: ReadonlySet<string>,
  header: Header,
): string | undefined {
  const name = printable(entry.name)
  if (names.has(entry.name)) return `Bitmap already exists: ${name}`
  if (fitsDisk(entry, header)) return undefined
  return `Could not read bitmap '${name}' from image: Invalid argument`
}

/** Undefined where it contradicts the format. */
function decodeEntry(
  bytes: Uint8Array,
  at: number,
  nameAt: number,
  nameEnd: number,
  header: Header,
): BitmapEntry | undefined {
  // The offset of the table has more bits than our numbers.
  if (viewOf(bytes).getUint32(at) >= 2 ** 21) return undefined
  const fields = directoryEntry.decode(bytes, at)
  const entry: BitmapEntry = {
    name: Buffer.from(bytes.subarray(nameAt, nameEnd)).toString('utf8'),
    tableOffset: fields.tableOffset,
    tableSize: fields.tableSize,
    inUse: (fields.flags & flag.inUse) !== 0,
    auto: (fields.flags & flag.auto) !== 0,
    granularityBits: fields.granularityBits,
    extraData: bytes.slice(at + directoryEntry.size, nameAt),
  }
  // A name that is not in UTF-8 could not be written again as it is.
  if (Buffer.byteLength(entry.name) !== nameEnd - nameAt) return undefined
  return isSound(entry, fields.type, fields.flags, header) ? entry : undefined
}

function isSound(entry: BitmapEntry, type: number, flags: number, header: Header): boolean {
  const { tableOffset, tableSize, granularityBits, name } = entry
  const clusterSize = 2 ** header.clusterBits
  const granularity = 2 ** granularityBits
  const bytes = tableSize * clusterSize
  return (
    type === dirtyTracking &&
    (flags & reservedFlags) === 0 &&
    name !== '' &&
    Buffer.byteLength(name) <= maxBitmapNameBytes &&
    granularity >= minGranularity &&
    granularity <= maxGranularity &&
    tableOffset !== 0 &&
    tableOffset % clusterSize === 0 &&
    tableSize !== 0 &&
    tableSize * entrySize <= maxBitmapTableBytes &&
    bytes <= maxBitmapBytes
  )
}

/** While in use the disk may have been resized without the bitmap. */
function fitsDisk({ inUse, tableSize, granularityBits }: BitmapEntry, header: Header): boolean {
  return inUse || tableSize === tableSizeFor(header, 2 ** granularityBits)
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
