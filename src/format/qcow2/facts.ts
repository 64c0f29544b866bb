/** What `info` shows of an image. */
import type { ImageFacts, PersistentBitmaps, StoredBitmap } from '../../block/abilities.ts'
import { dataFileName, hasDataFile } from './data-file.ts'
import { autoclear, compatible, compressionTypes, type Header, incompatible } from './header.ts'
import type { Qcow2Image } from './image.ts'
import { scanSnapshotTable } from './snapshot-table.ts'
import { stateOffset } from './state-area.ts'

export function imageFacts(image: Qcow2Image, bitmaps: PersistentBitmaps): ImageFacts {
  // Asked anew each time: another node may have taken the place of the file.
  const storage = () => image.file.layer.image
  const { current } = image.header
  return {
    get filename() {
      return storage()?.filename
    },
    clusterSize: image.layout.clusterSize,
    get vmStateOffset() {
      return stateOffset(current.size, image.layout)
    },
    get allocatedSize() {
      const below = storage()
      return below?.allocatedSize?.bind(below)
    },
    snapshots: async () => (await scanSnapshotTable(image.file, current)).snapshots,
    specific: () => ({ type: 'qcow2', data: specificFacts(image, bitmaps.list()) }),
    encrypted: current.cryptMethod !== 0,
    get dirty() {
      return (current.incompatibleFeatures & incompatible.dirty) !== 0n
    },
    get corrupt() {
      return (current.incompatibleFeatures & incompatible.corrupt) !== 0n
    },
  }
}

/** `ImageInfoSpecificQCow2` of QMP. */
function specificFacts(
  image: Qcow2Image,
  bitmaps: readonly StoredBitmap[],
): Record<string, unknown> {
  const header = image.header.current
  const encrypt = image.encryption && { encrypt: image.encryption.facts() }
  const compression = compressionTypes[header.compressionType]
  const refcountBits = 2 ** header.refcountOrder
  if (header.version === 2) {
    return {
      compat: '0.10',
      'compression-type': compression,
      'refcount-bits': refcountBits,
      ...encrypt,
    }
  }
  return {
    compat: '1.1',
    'compression-type': compression,
    'lazy-refcounts': (header.compatibleFeatures & compatible.lazyRefcounts) !== 0n,
    ...(bitmaps.length > 0 && { bitmaps: bitmaps.map(bitmapFacts) }),
    'refcount-bits': refcountBits,
    ...(hasDataFile(header) && { 'data-file': dataFileName(header) }),
    ...encrypt,
    ...(hasDataFile(header) && { 'data-file-raw': isRaw(header) }),
    corrupt: (header.incompatibleFeatures & incompatible.corrupt) !== 0n,
    'extended-l2': (header.incompatibleFeatures & incompatible.extendedL2) !== 0n,
  }
}

/** `Qcow2BitmapInfo` of QMP. */
function bitmapFacts({ name, granularity, auto, inUse }: StoredBitmap): Record<string, unknown> {
  return { flags: [...(inUse ? ['in-use'] : []), ...(auto ? ['auto'] : [])], name, granularity }
}

function isRaw({ autoclearFeatures }: Header): boolean {
  return (autoclearFeatures & autoclear.rawExternalData) !== 0n
}
