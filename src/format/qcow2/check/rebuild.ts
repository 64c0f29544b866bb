/**
 * Writing all refcounts anew, from what is referred to, where nothing is. The old structures stay
 * untouched until the header's one sector points at the new ones, so a crash leaves either the one
 * or the other.
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
 * table leads by now. Returns what became of the clusters of the old structures.
 */
export async function rebuildRefcounts(
  request: CheckRequest,
  blocks: StoredCounts['blocks'],
  { counts, incomplete }: References,
): Promise<FreedCluster[]> {
  const { header } = request
  const refcountOrder = orderFor(header, counts.max())
  const layout = new RefcountLayout(refcountOrder, 2 ** header.clusterBits)
  // What could not be counted may lie in what seems to be free.
  const first = incomplete ? clustersOf(request) : 0
  const plan = planStructures(request, layout, counts, first)
  const freed = forgetOldStructures(request, blocks, counts)
  await writePlanned(request, layout, counts, plan, { refcountOrder })
  return freed
}

/** How many references a cluster of the old structures had, and has without them. */
export interface FreedCluster {
  readonly cluster: number
  readonly before: number
  readonly after: number
}

/** Wider refcounts where damage, or its repair, has led to more references than there were. */
function orderFor({ version, refcountOrder }: Header, highest: number): number {
  let order = refcountOrder
  while (version >= 3 && order < maxRefcountOrder && highest > 2 ** (2 ** order) - 1) order++
  return order
}

export interface NewRefcounts {
  /** That of `layout`. */
  readonly refcountOrder: number
  /** Called with blocks that are written, and blocks to write. */
  readonly report?: (current: number, total: number) => void
}

type Storage = Pick<CheckRequest, 'file' | 'faults' | 'header' | 'state'>

/**
 * Writes a new refcount table and its blocks, in free clusters from `first` on, and switches the
 * header to them. `counts` get what they take up themselves.
 */
export async function writeRefcounts(
  request: Storage,
  layout: RefcountLayout,
  counts: Counts,
  { first, ...options }: NewRefcounts & { readonly first: number },
): Promise<void> {
  const plan = planStructures(request, layout, counts, first)
  await writePlanned(request, layout, counts, plan, options)
}

async function writePlanned(
  request: Storage,
  layout: RefcountLayout,
  counts: Counts,
  plan: Plan,
  { refcountOrder, report = () => {} }: NewRefcounts,
): Promise<void> {
  const { file, header, state } = request
  const clusterSize = 2 ** header.clusterBits
  for (const cluster of plan.blocks.values()) counts.add(cluster, 1)
  counts.addRange(plan.tableFirst, plan.tableClusters, 1)
  checkWidths(request, layout, counts)

  const table = new Uint8Array(plan.tableClusters * clusterSize)
  let written = 0
  for (const [index, cluster] of plan.blocks) {
    const offset = hostOffset(cluster * clusterSize)
    setShared(viewOf(table), index, offset)
    await file.write(offset, blockOf(layout, counts, index, clusterSize))
    report(++written, plan.blocks.size)
  }
  const tableOffset = plan.tableFirst * clusterSize
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
): FreedCluster[] {
  const clusterSize = 2 ** request.header.clusterBits
  const { refcountTableOffset, refcountTableClusters } = request.header
  const old = [...blocks.values()].map((offset) => offset / clusterSize)
  const table = refcountTableOffset / clusterSize
  for (let index = 0; index < refcountTableClusters; index++) old.push(table + index)
  const before = new Map(old.map((cluster) => [cluster, counts.get(cluster)]))
  for (const cluster of old) counts.add(cluster, -1)
  const freed = [...before].map(([cluster, count]) => ({
    cluster,
    before: count,
    after: counts.get(cluster),
  }))
  return freed.sort((one, other) => one.cluster - other.cluster)
}

/** Where the new structures go. Their blocks count themselves. */
interface Plan {
  /** The cluster of each block, by its index, in the order of the indices. */
  readonly blocks: ReadonlyMap<number, number>
  readonly tableFirst: number
  readonly tableClusters: number
}

/** As qemu-img has them: each block in the first free cluster, the table behind all of them. */
function planStructures(
  request: CheckedImage,
  layout: RefcountLayout,
  counts: Counts,
  first: number,
): Plan {
  const clusterSize = 2 ** request.header.clusterBits
  const needed = usedBlocks(layout, counts)
  const places = new Map<number, number>()
  let next = first
  const nextFree = () => {
    while (counts.get(next) > 0) next++
    return next++
  }
  for (let tableClusters = 1; ; ) {
    // A block may lie where another one is needed to count it.
    for (const index of needed) {
      if (places.has(index)) continue
      const cluster = nextFree()
      places.set(index, cluster)
      needed.add(Math.floor(cluster / layout.entries))
    }
    const tableFirst = freeRun(counts, next, tableClusters)
    const last = Math.floor((tableFirst + tableClusters - 1) / layout.entries)
    const known = needed.size
    for (let index = Math.floor(tableFirst / layout.entries); index <= last; index++) {
      needed.add(index)
    }
    let highest = 0
    for (const index of needed) highest = Math.max(highest, index)
    const clusters = Math.ceil(((highest + 1) * entrySize) / clusterSize)
    if (needed.size === known && clusters <= tableClusters) {
      const blocks = new Map([...places].sort(([one], [other]) => one - other))
      return { blocks, tableFirst, tableClusters }
    }
    tableClusters = Math.max(tableClusters, clusters)
    if (tableClusters * clusterSize > maxRefcountTableBytes) {
      throw request.faults.noSpace('the refcount table would be larger than its limit')
    }
  }
}

/** The first cluster from `next` on that is followed by enough others that are free. */
function freeRun(counts: Counts, next: number, length: number): number {
  let first = next
  for (let cluster = first; cluster < first + length; cluster++) {
    if (counts.get(cluster) > 0) first = cluster + 1
  }
  return first
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
