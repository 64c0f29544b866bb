/**
 * Changing the record of the backing file. Name, format and the other extensions may take more than
 * the one sector that is surely written whole, so the header goes over a bridge: a sector that is
 * complete in itself, with the name in a place of its own, so that a crash at any moment leaves
 * either the old record or the new one.
 */
import type { BackingLink } from '../../block/abilities.ts'
import { plainIo } from '../../block/layer.ts'
import { alignUp } from '../../bytes/range.ts'
import { withoutFeatureNames } from './extensions.ts'
import type { Faults } from './faults.ts'
import {
  autoclear,
  backingFormat,
  encodeFields,
  encodeHead,
  type Header,
  setBackingFormat,
} from './header.ts'
import type { Qcow2Image } from './image.ts'
import type { ImageFile } from './image-file.ts'

export type BackingRecord = NonNullable<BackingLink['recorded']>

const sectorSize = 512

export function backingLink(image: Qcow2Image): BackingLink {
  return {
    get recorded() {
      return recordOf(image.header.current)
    },
    change: (to) => changeBacking(image, to),
  }
}

function recordOf(header: Header): BackingRecord | undefined {
  const { backingFile } = header
  if (backingFile === undefined) return undefined
  return { filename: backingFile, format: backingFormat(header) }
}

async function changeBacking(image: Qcow2Image, to: BackingRecord | undefined): Promise<void> {
  const { readOnly, faults, header, writeBack } = image
  if (readOnly)
    throw faults.refuse('READ_ONLY', 'a read-only image cannot get another backing file')
  const features = header.current.autoclearFeatures
  if (to && (features & autoclear.rawExternalData) !== 0n) {
    throw faults.invalid('an image with a raw data file has no backing file')
  }
  await writeBack.withHeader(async () => {
    const next: Header = { ...header.stored, backingFile: to?.filename }
    setBackingFormat(next, to?.format)
    await writeHead(image, next)
    header.replaceHead(next)
  })
}

/** What has to be known of an image to write its header. */
type HeadOwner = Pick<Qcow2Image, 'file' | 'faults' | 'header' | 'layout'>

/**
 * Puts a header with its extensions and the backing file's name in the place of the present one.
 * Where the name is so long, and clusters so small, that not even a bridge has room, names of
 * features are given up; and if that does not help because the name itself changes, everything is
 * written at once, which only a disk that tears a write within a cluster of 1 or 2 KiB can spoil.
 */
export async function writeHead(image: HeadOwner, next: Header): Promise<void> {
  const { file, faults } = image
  const { backingFileOffset } = image.header.stored
  const bare = { ...next, extensions: withoutFeatureNames(next.extensions) }
  const usual = laidOut(next, faults)
  const head =
    (await ifOneSector(file, usual)) ??
    (await ifOneSector(file, laidOut(next, faults, backingFileOffset))) ??
    (await crossBridge(image, usual)) ??
    (await ifOneSector(file, laidOut(bare, faults, backingFileOffset))) ??
    usual
  await file.write(0, head.bytes)
  await file.flush()
  Object.assign(next, head.header)
}

/** A header that knows its places, and what of it is to be written. */
interface Head {
  readonly header: Header
  readonly bytes: Uint8Array
}

/** Its name lies at `nameOffset` where extensions leave room for it there. */
function laidOut(next: Header, faults: Faults, nameOffset = 0): Head {
  const header = { ...next }
  return { header, bytes: encodeHead(header, faults, nameOffset) }
}

/**
 * The first sector of a head of which everything else is on disk: the usual case when only the
 * bitmaps change.
 */
async function ifOneSector(file: ImageFile, { header, bytes }: Head): Promise<Head | undefined> {
  const rest = bytes.subarray(sectorSize)
  const there = new Uint8Array(rest.length)
  await file.read(sectorSize, there, plainIo)
  if (Buffer.compare(there, rest) !== 0) return undefined
  return { header, bytes: bytes.subarray(0, sectorSize) }
}

/**
 * Writes a first sector that needs nothing else, or only the backing file's name, which it then
 * finds behind all that the old header and the new one take up. Names of features are left out for
 * the moment. Then writes what belongs behind the first sector of `head`, and returns that. Does
 * nothing where there is no room.
 */
async function crossBridge(image: HeadOwner, head: Head): Promise<Head | undefined> {
  const { file, faults } = image
  const bridge = laidOut(
    { ...head.header, extensions: withoutFeatureNames(head.header.extensions) },
    faults,
  )
  const first =
    bridge.bytes.length <= sectorSize ? bridge.bytes : await lookingBehind(image, head, bridge)
  if (!first) return undefined
  await file.write(0, first)
  await file.flush()
  await file.write(sectorSize, head.bytes.subarray(sectorSize))
  await file.flush()
  return { header: head.header, bytes: head.bytes.subarray(0, sectorSize) }
}

/** A sector without the name, which has been written to a free place. */
async function lookingBehind(
  image: HeadOwner,
  head: Head,
  { header }: Head,
): Promise<Uint8Array | undefined> {
  const { file, faults, layout } = image
  const name = Buffer.from(header.backingFile ?? '')
  const { stored } = image.header
  const oldEnd = stored.backingFileOffset + stored.backingFileSize
  const place = alignUp(Math.max(head.bytes.length, oldEnd, encodedLength(stored)), 8)
  const { header: nameless, bytes } = laidOut({ ...header, backingFile: undefined }, faults)
  if (bytes.length > sectorSize || place + name.length > layout.clusterSize) return undefined
  await file.write(place, name)
  await file.flush()
  nameless.backingFileOffset = place
  nameless.backingFileSize = name.length
  bytes.set(encodeFields(nameless))
  return bytes
}

/** Bytes that header and extensions take up. */
function encodedLength(header: Header): number {
  const extensions = header.extensions.reduce(
    (sum, { data }) => sum + 8 + alignUp(data.length, 8),
    8,
  )
  return header.headerLength + extensions
}
