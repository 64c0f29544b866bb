/** Where the clusters of persistent bitmaps lie: enough to count them. */
import { plainIo } from '../../block/layer.ts'
import { alignUp, type ByteRange } from '../../bytes/range.ts'
import { struct, u8, u16, u32, u64 } from '../../bytes/struct.ts'
import { extensionType } from './extensions.ts'
import type { Faults } from './faults.ts'
import { autoclear, type Header } from './header.ts'
import type { ImageFile } from './image-file.ts'
import { maxBitmapDirectoryBytes, maxBitmaps, maxBitmapTableBytes } from './limits.ts'

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

export interface BitmapPlace {
  readonly tableOffset: number
  readonly tableSize: number
}

export interface BitmapDirectory {
  readonly offset: number
  readonly length: number
  readonly bitmaps: readonly BitmapPlace[]
}

/** Where the directory lies, whatever is to be thought of it. */
export function readBitmapPlace(header: Header): ByteRange | undefined {
  const extension = header.extensions.find(({ type }) => type === extensionType.bitmaps)
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
  const extension = header.extensions.find(({ type }) => type === extensionType.bitmaps)
  if (!extension || (header.autoclearFeatures & autoclear.bitmaps) === 0n) return undefined
  const { nbBitmaps, directorySize, directoryOffset } = bitmapsExtension.decode(extension.data)
  if (
    nbBitmaps > maxBitmaps ||
    directorySize > maxBitmapDirectoryBytes ||
    directoryOffset % 2 ** header.clusterBits !== 0 ||
    directoryOffset + directorySize > file.size
  ) {
    throw faults.corrupt('the bitmaps extension names an impossible directory')
  }
  const bytes = new Uint8Array(directorySize)
  await file.read(directoryOffset, bytes, plainIo)
  return {
    offset: directoryOffset,
    length: directorySize,
    bitmaps: decode(bytes, nbBitmaps, faults),
  }
}

function decode(bytes: Uint8Array, count: number, faults: Faults): BitmapPlace[] {
  const bitmaps: BitmapPlace[] = []
  let at = 0
  for (let index = 0; index < count; index++) {
    const { tableOffset, tableSize, nameSize, extraDataSize } = directoryEntry.decode(bytes, at)
    if (tableSize * 8 > maxBitmapTableBytes) {
      throw faults.corrupt(`bitmap ${index} has a table of ${tableSize} entries`)
    }
    bitmaps.push({ tableOffset, tableSize })
    at = alignUp(at + directoryEntry.size + nameSize + extraDataSize, 8)
  }
  return bitmaps
}
