/**
 * Refcounts of another width: all blocks and the table are written anew, beside the old ones.
 *
 *   1. the new blocks and the new table, behind the last cluster in use; flush;
 *   2. the header's one sector: place and size of the table together with the width; flush;
 *   3. the old blocks and the old table lose their count, which the new ones still gave them.
 *
 * Before step 2 nothing leads to the new structures, and the old ones do not count them: a crash
 * leaves the image as it was, the file longer at most. After it, a crash leaks the old structures.
 */
import { writeRefcounts } from '../check/rebuild.ts'
import { readStoredCounts } from '../check/stored-counts.ts'
import { hex } from '../faults.ts'
import type { Qcow2Image } from '../image.ts'
import { hostOffset } from '../offsets.ts'
import { RefcountLayout } from '../refcount.ts'

/** Throws if a refcount would not fit. */
export async function checkRefcountWidth(image: Qcow2Image, bits: number): Promise<void> {
  const { refcounts, layout, faults } = image
  const { max } = new RefcountLayout(Math.log2(bits), layout.clusterSize)
  if (max >= refcounts.layout.max) return
  const { entries } = refcounts.layout
  for (let index = 0; index < refcounts.blockLimit; index++) {
    if (refcounts.blockOffset(index) === 0) continue
    const block = await refcounts.load(index, true)
    block.unpin()
    for (let at = 0; at < entries; at++) {
      const count = refcounts.layout.get(block.view, at)
      if (count <= max) continue
      throw faults.refuse(
        'INVALID_ARGUMENT',
        `Cannot decrease refcount entry width to ${bits} bits: Cluster at offset ` +
          `${hex((index * entries + at) * layout.clusterSize)} has a refcount of ${count}`,
      )
    }
  }
}

/** Runs alone, with nothing pending in memory. */
export async function changeRefcountWidth(
  image: Qcow2Image,
  bits: number,
  report: (current: number, total: number) => void,
): Promise<void> {
  const { file, faults, header, allocator, guard, layout, refcounts, writeBack } = image
  const old = header.current
  const request = { file, faults, header: old, state: header }
  const stored = await readStoredCounts(request)
  for (const fault of stored.faults.values()) {
    throw faults.corrupt(`${fault}; check and repair the image`)
  }
  const oldTable = refcounts.table
  const blocks = [...stored.blocks.values()]
  const order = Math.log2(bits)
  await writeRefcounts(request, new RefcountLayout(order, layout.clusterSize), stored.counts, {
    first: stored.counts.highest() + 1,
    refcountOrder: order,
    report,
  })
  await refcounts.reload()
  allocator.reset()
  for (const offset of blocks) {
    guard.remove('refcount-block', offset, layout.clusterSize)
    allocator.free(hostOffset(offset), 1, 'other')
  }
  guard.remove('refcount-table', oldTable.offset, oldTable.bytes.length)
  allocator.free(oldTable.offset, oldTable.bytes.length / layout.clusterSize, 'other')
  await writeBack.finish()
}
