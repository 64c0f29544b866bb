/**
 * The image header: its fields as the specification names them, decoded and encoded. Whether an image
 * can be opened is judged in `header-check.ts`; header extensions are in `extensions.ts`.
 */
import { alignUp } from '../../bytes/range.ts'
import { anyU64, array, bits64, type Decoded, struct, u8, u32 } from '../../bytes/struct.ts'
import { viewOf } from '../../bytes/view.ts'
import {
  type BrokenExtension,
  decodeExtensions,
  encodeExtensions,
  extensionType,
  type HeaderExtension,
  textOf,
  withoutFeatureNames,
} from './extensions.ts'
import type { Faults } from './faults.ts'
import { maxBackingNameBytes, maxClusterBits, minClusterBits } from './limits.ts'

/** "QFI\xfb" */
export const magic = 0x514649fb

const commonFields = {
  magic: u32,
  version: u32,
  /** 0: no backing file. */
  backingFileOffset: anyU64,
  backingFileSize: u32,
  clusterBits: u32,
  /** Bytes of the virtual disk. */
  size: anyU64,
  /** 0 none, 1 AES, 2 LUKS. */
  cryptMethod: u32,
  /** Entries of the active L1 table. */
  l1Size: u32,
  l1TableOffset: anyU64,
  refcountTableOffset: anyU64,
  refcountTableClusters: u32,
  nbSnapshots: u32,
  snapshotsOffset: anyU64,
}

const featureFields = {
  incompatibleFeatures: bits64,
  compatibleFeatures: bits64,
  autoclearFeatures: bits64,
  /** Refcounts are 2^order bits wide. */
  refcountOrder: u32,
  headerLength: u32,
}

export const headerV2 = struct('big', commonFields)
export const headerV3 = struct('big', { ...commonFields, ...featureFields })

/** The fields behind those that every version 3 header has. */
export const additionalFields = struct('big', { compressionType: u8, padding: array(u8, 7) })

const sectorSize = 512
/** Bytes of the header extension that an image with bitmaps has. */
const bitmapExtensionLength = 32

const fixedFields = struct('big', { magic: u32, version: u32 })

/** Bits of `incompatibleFeatures`. */
export const incompatible = {
  dirty: 1n << 0n,
  corrupt: 1n << 1n,
  externalDataFile: 1n << 2n,
  compressionType: 1n << 3n,
  extendedL2: 1n << 4n,
} as const

export const compatible = { lazyRefcounts: 1n << 0n } as const

/** Bits of `autoclearFeatures`. */
export const autoclear = { bitmaps: 1n << 0n, rawExternalData: 1n << 1n } as const

export const compressionTypes = ['zlib', 'zstd'] as const
export type CompressionType = (typeof compressionTypes)[number]

type Fields = Omit<Decoded<typeof commonFields & typeof featureFields>, 'magic' | 'version'>

export interface Header extends Fields {
  /** Only of an image that is opened to be repaired. */
  brokenExtension?: BrokenExtension
  version: 2 | 3
  /** Index into `compressionTypes`. */
  compressionType: number
  /** Fields behind those that are known here. They are kept. */
  unknownFields: Uint8Array
  extensions: HeaderExtension[]
  /** As recorded; undefined where there is none. */
  backingFile: string | undefined
}

/** How many bytes of the file the header and its extensions may take: read these to decode. */
export function headLength(start: Uint8Array, fileSize: number): number {
  const clusterBits =
    isQcow2(start) && start.length >= headerV2.size
      ? viewOf(start).getUint32(headerV2.offsets.clusterBits)
      : minClusterBits
  const bounded = Math.min(maxClusterBits, Math.max(minClusterBits, clusterBits))
  return Math.min(fileSize, 2 ** bounded)
}

/** Whether the bytes begin as a qcow2 image of any version does. */
export function isQcow2(head: Uint8Array): boolean {
  if (head.length < fixedFields.size) return false
  const start = fixedFields.decode(head)
  return start.magic === magic && start.version >= 2
}

/**
 * Decodes the first cluster (as much as the file has of it). Judges only what is needed to get
 * through; `checkHeader` does the rest. `repairs`: the image is opened to be repaired, and extensions
 * that cannot be followed are no reason to refuse it.
 */
export function decodeHeader(head: Uint8Array, faults: Faults, repairs = false): Header {
  if (head.length < fixedFields.size || fixedFields.decode(head).magic !== magic) {
    throw faults.notRecognised('Image is not in qcow2 format')
  }
  const { version } = fixedFields.decode(head)
  if (version !== 2 && version !== 3) {
    throw faults.refuse('UNSUPPORTED', `Unsupported qcow2 version ${version}`, 4)
  }
  const header = version === 2 ? decodeV2(head, faults) : decodeV3(head, faults)
  const { clusterBits } = header
  if (clusterBits < minClusterBits || clusterBits > maxClusterBits) {
    throw faults.refuse('UNSUPPORTED', `Unsupported cluster size: 2^${clusterBits}`, 20)
  }
  decodeBehindFields(header, head, faults, repairs)
  return header
}

/** The fields of the fixed part, as one sector write puts them in force. */
export function encodeFields(header: Header): Uint8Array {
  const fields = { ...header, magic }
  return header.version === 2 ? headerV2.encode(fields) : headerV3.encode(fields)
}

/**
 * Header, extensions and the backing file's name, as they lie in the first cluster. Sets the
 * name's place in `header`: behind the extensions, or at `nameAt` if that is further on. The table
 * of feature names, which explains but does not matter, goes where there is no room for it. A name
 * that reaches into the second sector need not move when bitmaps come: see `writeHead`. Throws
 * `NO_SPACE` when there is no room for the rest.
 */
export function encodeHead(header: Header, faults: Faults, nameAt = 0): Uint8Array {
  const name = Buffer.from(header.backingFile ?? '')
  if (name.length > maxBackingNameBytes) throw faults.invalid('Backing file name too long')
  const extensions = encodeExtensions(header.extensions)
  header.headerLength = headerLengthOf(header)
  const end = header.headerLength + extensions.length
  const clusterSize = 2 ** header.clusterBits
  const nameOffset = nameAt >= end ? nameAt : end + roomForBitmaps(end, name, clusterSize)
  header.backingFileOffset = header.backingFile === undefined ? 0 : nameOffset
  header.backingFileSize = name.length
  if (nameOffset + name.length > clusterSize) {
    const others = withoutFeatureNames(header.extensions)
    if (others.length < header.extensions.length) {
      header.extensions = others
      return encodeHead(header, faults, nameAt)
    }
    throw faults.noSpace(`the header does not fit in a cluster of ${clusterSize} bytes`)
  }
  const head = new Uint8Array(alignUp(nameOffset + name.length, 8))
  head.set(encodeFields(header))
  if (header.version === 3) encodeAdditional(header, head)
  head.set(extensions, header.headerLength)
  head.set(name, nameOffset)
  return head
}

/** Bytes to leave free behind `end`, in front of a name that reaches into the second sector. */
function roomForBitmaps(end: number, name: Uint8Array, clusterSize: number): number {
  const nameEnd = end + name.length
  const fits = nameEnd + bitmapExtensionLength <= clusterSize
  return fits && nameEnd > sectorSize ? bitmapExtensionLength : 0
}

function decodeV2(head: Uint8Array, faults: Faults): Header {
  if (head.length < headerV2.size) throw headerTooShort(faults)
  const { magic: _, version: __, ...fields } = headerV2.decode(head)
  return {
    ...fields,
    version: 2,
    incompatibleFeatures: 0n,
    compatibleFeatures: 0n,
    autoclearFeatures: 0n,
    refcountOrder: 4,
    headerLength: headerV2.size,
    compressionType: 0,
    unknownFields: new Uint8Array(0),
    extensions: [],
    backingFile: undefined,
  }
}

function decodeV3(head: Uint8Array, faults: Faults): Header {
  if (head.length < headerV3.size) throw headerTooShort(faults)
  const { magic: _, version: __, ...fields } = headerV3.decode(head)
  const { headerLength } = fields
  if (headerLength < headerV3.size || headerLength > head.length) throw headerTooShort(faults)
  if (headerLength % 8 !== 0) {
    throw faults.refuse(
      'CORRUPT_IMAGE',
      `The header is ${headerLength} bytes long, not a multiple of 8`,
      headerV3.offsets.headerLength,
    )
  }
  const known = headerV3.size + additionalFields.size
  return {
    ...fields,
    version: 3,
    compressionType:
      headerLength > headerV3.size
        ? additionalFields.decode(head, headerV3.size).compressionType
        : 0,
    unknownFields: head.slice(known, Math.max(known, headerLength)),
    extensions: [],
    backingFile: undefined,
  }
}

function decodeBehindFields(
  header: Header,
  head: Uint8Array,
  faults: Faults,
  repairs: boolean,
): void {
  const { backingFileOffset, backingFileSize } = header
  const clusterSize = 2 ** header.clusterBits
  let extensionsEnd = Math.min(head.length, clusterSize)
  if (backingFileOffset !== 0) {
    const nameEnd = backingFileOffset + backingFileSize
    if (backingFileOffset > clusterSize) {
      throw faults.refuse('CORRUPT_IMAGE', 'Invalid backing file offset', 8)
    }
    if (backingFileSize > maxBackingNameBytes || nameEnd > clusterSize) {
      throw faults.refuse('CORRUPT_IMAGE', 'Backing file name too long', 16)
    }
    if (backingFileOffset < header.headerLength || nameEnd > head.length) {
      throw faults.refuse('CORRUPT_IMAGE', 'Invalid backing file offset', 8)
    }
    header.backingFile = textOf(head.subarray(backingFileOffset, nameEnd))
    extensionsEnd = backingFileOffset
  }
  const hear = (broken: BrokenExtension) => {
    header.brokenExtension = broken
  }
  header.extensions = decodeExtensions(
    head,
    header.headerLength,
    extensionsEnd,
    faults,
    repairs ? hear : undefined,
  )
}

function headerLengthOf(header: Header): number {
  if (header.version === 2) return headerV2.size
  return headerV3.size + additionalFields.size + header.unknownFields.length
}

function encodeAdditional(header: Header, head: Uint8Array): void {
  const padding = new Array<number>(7).fill(0)
  const { compressionType } = header
  additionalFields.encodeInto(head, headerV3.size, { compressionType, padding })
  head.set(header.unknownFields, headerV3.size + additionalFields.size)
}

/** Entries that the L1 table of a disk needs. */
export function l1SizeFor(
  size: number,
  { clusterBits, incompatibleFeatures }: Pick<Header, 'clusterBits' | 'incompatibleFeatures'>,
): number {
  const entryBits = (incompatibleFeatures & incompatible.extendedL2) !== 0n ? 4 : 3
  return Math.ceil(size / (2 ** clusterBits * 2 ** (clusterBits - entryBits)))
}

function headerTooShort(faults: Faults) {
  return faults.refuse('CORRUPT_IMAGE', 'qcow2 header too short', headerV3.offsets.headerLength)
}

/** The recorded format of the backing file, if any. */
export function backingFormat(header: Header): string | undefined {
  const found = header.extensions.find(({ type }) => type === extensionType.backingFormat)
  return found && textOf(found.data)
}

/** Takes away, or sets, the recorded format of the backing file. */
export function setBackingFormat(header: Header, format: string | undefined): void {
  const rest = header.extensions.filter(({ type }) => type !== extensionType.backingFormat)
  const own = { type: extensionType.backingFormat, data: Buffer.from(format ?? '') }
  header.extensions = format === undefined ? rest : [own, ...rest]
}
