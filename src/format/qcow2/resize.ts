/**
 * Changing the size of the disk.
 *
 * Growing: entries behind the old end, which a crash in the middle of an earlier shrinking may have
 * left, are dropped first, so that the new space never shows old data; then the header's one sector
 * puts a larger L1 table, where one is needed, and the new size in force together.
 *
 * Shrinking: clusters behind the new end are let go of first, and the size is written when that is
 * on stable storage. A crash in between leaves the old size, and zeroes where data was given up.
 */
import type { BlockLayer, Io, ResizeIo } from '../../block/layer.ts'
import { alignUp, maxDiskSize } from '../../bytes/range.ts'
import { dataFileLength } from './data-file.ts'
import { l1SizeFor } from './header.ts'
import type { Qcow2Image } from './image.ts'
import { entrySize } from './l2-table.ts'
import { maxL1Bytes } from './limits.ts'
import { ownTable } from './own-table.ts'

const sectorSize = 512

/** Runs alone. `size` is a multiple of 512 bytes. */
export async function resizeImage(image: Qcow2Image, size: number, io: ResizeIo): Promise<void> {
  checkNewSize(image, size)
  const header = image.header.current
  const before = header.size
  if (size === before) return
  await dropBehind(image, alignUp(Math.min(size, before), image.layout.clusterSize), io)
  const { dataFile } = image
  if (size > before) {
    if (dataFile) await resizeDataFile(image, dataFile, size, io)
    await growL1(image, l1SizeFor(size, header))
  } else {
    await image.writeBack.flushChanges()
  }
  header.size = size
  try {
    await image.writeBack.flushChanges()
  } catch (error) {
    header.size = before
    throw error
  }
  if (size < before) {
    await shortenFile(image)
    if (dataFile) await resizeDataFile(image, dataFile, size, io)
  }
}

/** A file has no clusters to be given a place; whoever makes the disk larger fills what it gains. */
async function resizeDataFile(image: Qcow2Image, file: BlockLayer, size: number, io: ResizeIo) {
  const length = dataFileLength(image.header.current, size)
  // Other programs may have made it longer than the disk.
  const { preallocation = 'off' } = length > file.size ? io : {}
  const suited = preallocation === 'metadata' ? 'off' : preallocation
  await file.truncate(length, { ...io, preallocation: suited })
}

/** Refuses what the disk cannot be, before anything is changed. */
export function checkNewSize(image: Qcow2Image, size: number): void {
  const header = image.header.current
  const { version, nbSnapshots } = header
  if (size % sectorSize !== 0) {
    throw image.faults.refuse(
      'INVALID_ARGUMENT',
      `The new size must be a multiple of ${sectorSize}`,
    )
  }
  if (version < 3 && nbSnapshots > 0) {
    throw image.faults.refuse('UNSUPPORTED', "Can't resize a v2 image which has snapshots")
  }
  if (size > maxDiskSize || l1SizeFor(size, header) * entrySize > maxL1Bytes) {
    throw image.faults.refuse('INVALID_ARGUMENT', 'Failed to grow the L1 table: File too large')
  }
}

/** Lets go of all clusters from `offset` on, a multiple of the cluster size. */
export async function dropBehind(image: Qcow2Image, offset: number, io: Io): Promise<void> {
  const { l2Tables, layout } = image
  const entries = image.header.current.l1Size
  for (let l1Index = layout.l1Index(offset); l1Index < entries; l1Index++) {
    if (l2Tables.isMissing(l1Index)) continue
    io.signal.throwIfAborted()
    const first = l1Index === layout.l1Index(offset) ? layout.l2Index(offset) : 0
    if (first > 0) await dropEntries(image, l1Index, first)
    else await dropTable(image, l1Index)
    await image.releaseMany()
  }
}

async function dropEntries(image: Qcow2Image, l1Index: number, first: number): Promise<void> {
  const { entries, entryBytes } = image.layout
  const table = await ownTable(image, l1Index)
  try {
    image.releaseEntries(table, first, entries - first)
    table.bytes.fill(0, first * entryBytes)
    table.touchRange(first * entryBytes, (entries - first) * entryBytes)
  } finally {
    table.unpin()
  }
}

async function dropTable(image: Qcow2Image, l1Index: number): Promise<void> {
  const { l2Tables, layout, allocator, file } = image
  await file.at('l1_shrink_free_l2_clusters')
  const table = await l2Tables.load(l1Index)
  table.unpin()
  image.releaseEntries(table, 0, layout.entries)
  allocator.free(table.offset, 1, 'other')
  l2Tables.drop(l1Index)
}

/** Moves the L1 table to a larger place, in memory; a flush puts it in force. Runs alone. */
export async function growL1(image: Qcow2Image, entries: number): Promise<void> {
  const { layout, allocator, l2Tables, file } = image
  const header = image.header.current
  if (entries <= header.l1Size) return
  const clusters = (count: number) => Math.ceil((count * entrySize) / layout.clusterSize)
  await file.at('l1_grow_alloc_table')
  const run = await allocator.takeWhole(clusters(entries))
  file.claim(run.offset, run.count * layout.clusterSize)
  const old = l2Tables.moveL1(run.offset, entries)
  if (header.l1Size > 0) allocator.free(old.offset, clusters(header.l1Size), 'other')
  header.l1TableOffset = run.offset
  header.l1Size = entries
}

/** Cuts off the part of the file in which no cluster is used any more. */
export async function shortenFile(image: Qcow2Image): Promise<void> {
  const { clusterSize } = image.layout
  let clusters = Math.ceil(image.file.size / clusterSize)
  while (clusters > 0 && (await image.refcounts.get(clusters - 1)) === 0) clusters--
  // The counts that were just lowered have to be on disk before the clusters are gone from it.
  await image.writeBack.flushChanges()
  await image.file.shorten(clusters * clusterSize)
}
