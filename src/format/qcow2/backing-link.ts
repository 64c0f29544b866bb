/**
 * Changing the record of the backing file. Name, format and the other extensions may take more than
 * the one sector that is surely written whole, so the header goes over a bridge: a sector that is
 * complete in itself, with the name in a place of its own, so that a crash at any moment leaves
 * either the old record or the new one.
 */
import { type BackingLink, plainIo } from '../../block/layer.ts'
import { alignUp } from '../../bytes/range.ts'
import { extensionType } from './extensions.ts'
import { backingFormat, encodeFields, encodeHead, type Header, setBackingFormat } from './header.ts'
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
  await writeBack.withHeader(async () => {
    const next: Header = { ...header.stored, backingFile: to?.filename }
    setBackingFormat(next, to?.format)
    await writeHead(image, next)
    header.replaceHead(next)
  })
}

/** Puts a header with its extensions and the backing file's name in the place of the present one. */
export async function writeHead(image: Qcow2Image, next: Header): Promise<void> {
  const { file, faults } = image
  const head = encodeHead(next, faults)
  const rest = head.subarray(sectorSize)
  if (rest.length > 0 && !(await isOnDisk(file, sectorSize, rest))) {
    await crossBridge(image, next, head.length)
    await file.write(sectorSize, rest)
    await file.flush()
  }
  await file.write(0, head.subarray(0, sectorSize))
  await file.flush()
}

/** The usual case when only the bitmaps change: then nothing behind the first sector does. */
async function isOnDisk(file: ImageFile, offset: number, bytes: Uint8Array): Promise<boolean> {
  const there = new Uint8Array(bytes.length)
  await file.read(offset, there, plainIo)
  return Buffer.compare(there, bytes) === 0
}

/**
 * Writes a first sector that needs nothing else, or only the backing file's name, which it then
 * finds behind all that the old header and the new one take up. Names of features, which explain
 * but do not matter, are left out for the moment.
 */
async function crossBridge(image: Qcow2Image, next: Header, newLength: number): Promise<void> {
  const { file, faults, header, layout } = image
  const extensions = next.extensions.filter(({ type }) => type !== extensionType.featureNames)
  const whole = encodeHead({ ...next, extensions }, faults)
  if (whole.length <= sectorSize) {
    await file.write(0, whole)
    await file.flush()
    return
  }
  const name = Buffer.from(next.backingFile ?? '')
  const oldEnd = header.stored.backingFileOffset + header.stored.backingFileSize
  const place = alignUp(Math.max(newLength, oldEnd, encodedLength(header.stored)), sectorSize)
  const bridge: Header = { ...next, backingFile: undefined, extensions }
  const sector = encodeHead(bridge, faults)
  // Where there is no room, the header is written at once: a moment's risk instead of no change.
  if (sector.length > sectorSize || place + name.length > layout.clusterSize) return
  await file.write(place, name)
  await file.flush()
  bridge.backingFileOffset = place
  bridge.backingFileSize = name.length
  sector.set(encodeFields(bridge))
  await file.write(0, sector)
  await file.flush()
}

/** Bytes that header and extensions take up. */
function encodedLength(header: Header): number {
  const extensions = header.extensions.reduce(
    (sum, { data }) => sum + 8 + alignUp(data.length, 8),
    8,
  )
  return header.headerLength + extensions
}
