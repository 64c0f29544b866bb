/** L2 tables that belong to the disk alone, and so can be changed. */
import type { Qcow2Image } from './image.ts'
import type { HostRun } from './offsets.ts'
import type { Table } from './table.ts'

/**
 * The L2 table of an L1 entry, ready to be changed: made where it is missing, copied where
 * snapshots share it. It is pinned; the caller unpins it.
 */
export async function ownTable(image: Qcow2Image, l1Index: number): Promise<Table> {
  const { l2Tables } = image
  for (;;) {
    if (l2Tables.isMissing(l1Index)) {
      await makeTable(image, l1Index)
    } else if (!l2Tables.isOwn(l1Index)) {
      await copyTable(image, l1Index)
    } else {
      const table = l2Tables.cached(l2Tables.offsetAt(l1Index))
      if (table) {
        image.checkTable(table)
        table.pins++
        return table
      }
      const loaded = await l2Tables.load(l1Index)
      loaded.unpin()
    }
  }
}

async function makeTable(image: Qcow2Image, l1Index: number): Promise<void> {
  await image.file.at('cluster_alloc')
  const run = await takePlace(image)
  if (!image.l2Tables.cache.hasRoom()) await image.l2Tables.makeRoom()
  // Somebody else may have been faster.
  if (!image.l2Tables.isMissing(l1Index)) return await image.allocator.giveBack(run)
  image.file.claim(run.offset, image.layout.clusterSize)
  image.l2Tables.adopt(l1Index, run.offset, new Uint8Array(image.layout.clusterSize))
}

async function copyTable(image: Qcow2Image, l1Index: number): Promise<void> {
  const { l2Tables } = image
  await image.file.at('l2_alloc_cow_read')
  const shared = await l2Tables.load(l1Index)
  shared.unpin()
  const run = await takePlace(image)
  if (!l2Tables.cache.hasRoom()) await l2Tables.makeRoom()
  // Somebody else may have been faster, even before the table was looked for: a table that is the
  // disk's own is not copied, for others are changing it.
  const isCopied = l2Tables.isMissing(l1Index) || l2Tables.isOwn(l1Index)
  if (isCopied || l2Tables.offsetAt(l1Index) !== shared.offset) {
    return await image.allocator.giveBack(run)
  }
  image.file.claim(run.offset, image.layout.clusterSize)
  l2Tables.adopt(l1Index, run.offset, shared.bytes.slice())
  image.allocator.free(shared.offset, 1, 'other')
}

/**
 * A cluster that a table can be written to later, whatever becomes of the disk's free space until
 * then: else a guest's writes would be acknowledged, or even fail, and none could be flushed.
 */
async function takePlace(image: Qcow2Image): Promise<HostRun> {
  const run = await image.allocator.take(1)
  try {
    await image.file.occupy({ offset: run.offset, length: image.layout.clusterSize })
  } catch (error) {
    await image.allocator.giveBack(run)
    throw error
  }
  return run
}
