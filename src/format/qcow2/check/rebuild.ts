/**
 * Writing all refcounts anew, behind the end of everything, from what is referred to. The old
 * structures stay untouched until the header's one sector points at the new ones, so a crash
 * leaves either the one or the other.
 */
import { viewOf } from '../../../bytes/view.ts'
import type { Header } from '../header.ts'
import { entrySize, setShared } from '../l2-table.ts'
import { maxRefcountOrder, maxRefcountTableBytes } from '../limits.ts'
import { hostOffset } from '../offsets.ts'
import { RefcountLayout } from '../refcount.ts'
import type { CheckRequest } from './check.ts'
import { type Counts, pieceLength } from './counts.ts'
import type { CheckedImage, References } from './references.ts'
import { clustersOf, type StoredCounts } from './stored-counts.ts'

/**
 * Changes `references` to what is right afterwards. `blocks`: those that are among them, wherever the
 * table leads by now.
 */
export async function rebuildRefcounts(
  request: CheckRequest,
  blocks: StoredCounts['blocks'],
  { counts }: References,
): Promise<void> {
  forgetOldStructures(request, blocks, counts)
  const { header } = request
  const refcountOrder = orderFor(header, counts.max())
  const layout = new RefcountLayout(refcountOrder, 2 ** header.clusterBits)
  await writeRefcounts(request, layout, counts, { first: clustersOf(request), refcountOrder })
}

/** Wider refcounts where damage, or its repair, has led to more references than there were. */
function orderFor({ version, refcountOrder }: Header, highest: number): number {
  let order = refcountOrder
  while (version >= 3 && order < maxRefcountOrder && highest > 2 ** (2 ** order) - 1) order++
  return order
}

export interface NewRefcounts {
  /** The cluster from which on the file is free. */
  readonly first: number
  /** That of `layout`. */
  readonly refcountOrder: number
  /** Called with blocks that are written, and blocks to write. */
  readonly report?: (current: number, total: number) => void
}

/**
 * Writes a new refcount table and its blocks, from cluster `first` on, and switches the header to
 * them. `counts` get what they take up themselves.
 */
export async function writeRefcounts(
  request: Pick<CheckRequest, 'file' | 'faults' | 'header' | 'state'>,
  layout: RefcountLayout,
  counts: Counts,
  { first, refcountOrder, report = () => {} }: NewRefcounts,
): Promise<void> {
  const { file, header, state } = request
  const clusterSize = 2 ** header.clusterBits
  const plan = planStructures(request, layout, counts, first)
  counts.addRange(plan.first, plan.blocks.length + plan.tableClusters, 1)
  checkWidths(request, layout, counts)

  const table = new Uint8Array(plan.tableClusters * clusterSize)
  for (const [at, index] of plan.blocks.entries()) {
    const offset = hostOffset((plan.first + at) * clusterSize)
    setShared(viewOf(table), index, offset)
    await file.write(offset, blockOf(layout, counts, index, clusterSize))
    report(at + 1, plan.blocks.length)
  }
  const tableOffset = (plan.first + plan.blocks.length) * clusterSize
  await file.write(tableOffset, table)
  await file.flush()

  state.current.refcountTableOffset = tableOffset
  state.current.refcountTableClusters = plan.tableClusters
  state.current.refcountOrder = refcountOrder
  await state.write({ ...state.current }, file)
  await file.flush()
}

/** Takes the references to the table and the blocks of before off the counts. */
function forgetOldStructures(
  request: CheckRequest,
  blocks: StoredCounts['blocks'],
  counts: Counts,
): void {
  const clusterSize = 2 ** request.header.clusterBits
  const { refcountTableOffset, refcountTableClusters } = request.header
  counts.addRange(refcountTableOffset / clusterSize, refcountTableClusters, -1)
  for (const offset of blocks.values()) counts.add(offset / clusterSize, -1)
}

interface Plan {
  /** First cluster of the new structures: the blocks, then the table. */
  readonly first: number
  /** Indices of the blocks that are needed, in order. */
  readonly blocks: readonly number[]
  readonly tableClusters: number
}

function planStructures(
  request: CheckedImage,
  layout: RefcountLayout,
  counts: Counts,
  first: number,
): Plan {
  const clusterSize = 2 ** request.header.clusterBits
  const used = usedBlocks(layout, counts)
  for (let clusters = 1; ; ) {
    const last = Math.floor((first + clusters - 1) / layout.entries)
    const needed = new Set(used)
    for (let index = Math.floor(first / layout.entries); index <= last; index++) needed.add(index)
    const tableClusters = Math.ceil(((last + 1) * entrySize) / clusterSize)
    if (needed.size + tableClusters <= clusters) {
      if (tableClusters * clusterSize > maxRefcountTableBytes) {
        throw request.faults.noSpace('the refcount table would be larger than its limit')
      }
      const blocks = [...needed].sort((one, other) => one - other)
      return { first, blocks, tableClusters }
    }
    clusters = needed.size + tableClusters
  }
}

/** Indices of the blocks that count something. */
function usedBlocks(layout: RefcountLayout, counts: Counts): Set<number> {
  const used = new Set<number>()
  for (const start of counts.pieceStarts()) {
    for (let cluster = start; cluster < start + pieceLength; cluster++) {
      if (counts.get(cluster) > 0) used.add(Math.floor(cluster / layout.entries))
    }
  }
  return used
}

function checkWidths(request: CheckedImage, layout: RefcountLayout, counts: Counts): void {
  for (const start of counts.pieceStarts()) {
    for (let cluster = start; cluster < start + pieceLength; cluster++) {
      if (counts.get(cluster) <= layout.max) continue
      throw request.faults.unsupported(
        `${counts.get(cluster)} references to one cluster do not fit refcounts of ${layout.bits} bits`,
        cluster * 2 ** request.header.clusterBits,
      )
    }
  }
}

function blockOf(
  layout: RefcountLayout,
  counts: Counts,
  index: number,
  clusterSize: number,
): Uint8Array {
  const block = new Uint8Array(clusterSize)
  const view = viewOf(block)
  for (let at = 0; at < layout.entries; at++) {
    const count = counts.get(index * layout.entries + at)
    if (count > 0) layout.set(view, at, count)
  }
  return block
}
