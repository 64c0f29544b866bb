/**
 * Between the two versions of the format.
 *
 * Up, only the header changes. Down, the tables have to say everything in words of version 2 first
 * (`zero-clusters.ts`); what version 2 has no words for is refused before anything is changed. The
 * header is the last to change, in one sector, so a crash leaves an image of the one version or the
 * other, never a mixture.
 */
import type { Io } from '../../../block/layer.ts'
import { writeHead } from '../backing-link.ts'
import { extensionType, featureNamesIn } from '../extensions.ts'
import { autoclear, type Header, headerV2, incompatible } from '../header.ts'
import type { Qcow2Image } from '../image.ts'
import { readSnapshotTable } from '../snapshot-table.ts'
import { expandZeroClusters } from './zero-clusters.ts'

/** Refcounts of version 2 are 2^4 bits wide. */
const version2RefcountOrder = 4

/** Puts a header with other fields or extensions in force. Runs alone. */
export async function rewriteHeader(image: Qcow2Image, changes: Partial<Header>): Promise<void> {
  const { header, writeBack } = image
  await writeBack.withHeader(async () => {
    const next: Header = { ...header.stored, ...changes }
    await writeHead(image, next)
    Object.assign(header.current, changes)
    header.replaceHead(next)
  })
}

export async function upgrade(image: Qcow2Image): Promise<void> {
  const { extensions, clusterBits } = image.header.current
  const known = extensions.some(({ type }) => type === extensionType.featureNames)
  await rewriteHeader(image, {
    version: 3,
    extensions: known ? extensions : [...extensions, ...featureNamesIn(clusterBits)],
  })
  image.layout.version = 3
}

/** Throws why an image that will have such refcounts and such a size cannot be of version 2. */
export async function checkDowngrade(
  image: Qcow2Image,
  refcountBits: number,
  size: number,
): Promise<void> {
  const { faults, file } = image
  const { current } = image.header
  const features = current.incompatibleFeatures & ~incompatible.dirty
  const refuse = (message: string) => faults.refuse('UNSUPPORTED', message)
  if (refcountBits !== 2 ** version2RefcountOrder)
    throw refuse('compat=0.10 requires refcount_bits=16')
  if ((features & incompatible.externalDataFile) !== 0n) {
    throw refuse('Cannot downgrade an image with a data file')
  }
  if (features !== 0n) {
    throw refuse(
      `Cannot downgrade an image with incompatible features 0x${features.toString(16)} set`,
    )
  }
  if ((current.autoclearFeatures & autoclear.bitmaps) !== 0n) {
    throw refuse('Cannot downgrade an image with persistent bitmaps; remove them first')
  }
  if (current.nbSnapshots === 0) return
  // A snapshot of version 2 is as large as the disk, and its VM state below 4 GiB.
  const { snapshots } = await readSnapshotTable(file, current, faults)
  for (const { diskSize = size, vmStateSize } of snapshots) {
    if (diskSize !== size || vmStateSize >= 2 ** 32) {
      throw refuse('Internal snapshots prevent downgrade of image')
    }
  }
}

export async function downgrade(image: Qcow2Image, io: Io): Promise<void> {
  await expandZeroClusters(image, io)
  await image.writeBack.finish()
  const { extensions } = image.header.current
  await rewriteHeader(image, {
    version: 2,
    headerLength: headerV2.size,
    incompatibleFeatures: 0n,
    compatibleFeatures: 0n,
    autoclearFeatures: 0n,
    unknownFields: new Uint8Array(0),
    extensions: extensions.filter(({ type }) => type !== extensionType.featureNames),
  })
  image.layout.version = 2
}
