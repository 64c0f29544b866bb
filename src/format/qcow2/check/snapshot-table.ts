/**
 * Repairing the snapshot table, before references are counted: entries get what they lack, and
 * those whose snapshot is lost are taken out, which frees what only they had. The new table lies
 * behind the end of the file, for the place that the header names may be the wrong one and hold
 * something else; then one write of the header's sector puts it in force.
 */
import { alignUp, rangesOverlap } from '../../../bytes/range.ts'
import type { Header } from '../header.ts'
import { entrySize } from '../l2-table.ts'
import {
  type EntryFault,
  joinEntries,
  type Snapshot,
  scanSnapshotTable,
} from '../snapshot-table.ts'
import type { CheckRequest } from './check.ts'
import type { References } from './references.ts'
import { writeCounts } from './repair.ts'
import type { Report } from './report.ts'
import type { StoredCounts } from './stored-counts.ts'

export async function mendSnapshotTable(
  request: CheckRequest,
  report: Report,
  before: References,
  stored: StoredCounts,
): Promise<void> {
  const { file, header, state } = request
  if (header.nbSnapshots === 0) return
  const { snapshots, faults, length } = await scanSnapshotTable(file, header)
  const covered = liesOnOthers(header, length)
  const misplaced = snapshots.filter((snapshot) => isMisplaced(snapshot, header, snapshots, before))
  if (faults.length === 0 && !covered && misplaced.length === 0) return
  if (covered) report.corruption('the snapshot table lies on other metadata', true)
  const byIndex = new Map(faults.map((fault) => [fault.index, fault]))
  const usable = snapshots.values()
  const entries: Uint8Array[] = []
  for (let index = 0; index < header.nbSnapshots; index++) {
    const fault = byIndex.get(index)
    // Those that are usable come in order, the harmless ones among them.
    const own = !fault || fault.harmless ? usable.next().value : undefined
    const entry = fault ? fault.mended : own?.entry
    if (fault) tellFault(report, fault)
    if (own && misplaced.includes(own)) {
      const where = `l1_offset=0x${own.l1TableOffset.toString(16)}`
      report.corruption(
        `snapshot ${own.id} (${own.name}) ${where}: L1 table is in place of something else; snapshot table entry corrupted`,
        true,
      )
    } else if (entry) {
      entries.push(entry)
    }
  }
  const bytes = joinEntries(entries)
  const clusterSize = 2 ** header.clusterBits
  const former = clustersIn(header.snapshotsOffset, length, clusterSize)
  const place = placeFor(request, Math.ceil(bytes.length / clusterSize), before, stored)
  if (bytes.length > 0) {
    const whole = new Uint8Array(alignUp(bytes.length, clusterSize))
    whole.set(bytes)
    await file.write(place, whole)
    await setCounts(request, stored, before, clustersIn(place, bytes.length, clusterSize), 1)
  }
  await file.flush()
  state.current.nbSnapshots = entries.length
  state.current.snapshotsOffset = entries.length > 0 ? place : 0
  await state.write({ ...state.current }, file)
  await file.flush()
  const free = former.filter(
    (cluster) => stored.counts.get(cluster) === 1 && before.counts.get(cluster) === 1,
  )
  await setCounts(request, stored, before, free, 0)
}

/**
 * Clusters that nothing refers to and that are counted as free, the first ones; behind the end of the
 * file where not everything could be counted.
 */
function placeFor(
  { file }: CheckRequest,
  clusters: number,
  before: References,
  stored: StoredCounts,
): number {
  const end = Math.ceil(file.end / file.clusterSize)
  if (before.incomplete || stored.faults.size > 0) return end * file.clusterSize
  let first = 0
  for (let cluster = 0; cluster < Math.min(end, first + clusters); cluster++) {
    if (before.counts.get(cluster) > 0 || stored.counts.get(cluster) > 0) first = cluster + 1
  }
  return first * file.clusterSize
}

function tellFault(report: Report, { message, mended }: EntryFault): void {
  if (!message.startsWith('too much') || !mended) {
    report.corruption(message, true)
    return
  }
  report.say(`Discarding ${message}`)
  report.corruptionsFixed++
}

function clustersIn(offset: number, length: number, clusterSize: number): number[] {
  const count = Math.ceil(length / clusterSize)
  return Array.from({ length: count }, (_, index) => Math.floor(offset / clusterSize) + index)
}

/** Where blocks of refcounts are sound and nothing else, so that the table alone is repaired. */
async function setCounts(
  request: CheckRequest,
  stored: StoredCounts,
  before: References,
  clusters: readonly number[],
  count: number,
): Promise<void> {
  const { blocks, faults, layout } = stored
  const { clusterSize } = request.file
  const sound = (cluster: number) => {
    const block = blocks.get(Math.floor(cluster / layout.entries))
    return block !== undefined && before.counts.get(block / clusterSize) === 1
  }
  if (faults.size > 0 || !clusters.every(sound)) return
  await writeCounts(
    request,
    stored,
    clusters.map((cluster) => [cluster, count] as const),
  )
}

/** What looks like a snapshot's L1 table is something else, which mending it would destroy. */
function isMisplaced(
  { l1TableOffset, l1Size }: Snapshot,
  header: Header,
  snapshots: readonly Snapshot[],
  before: References,
): boolean {
  const length = l1Size * entrySize
  const clusterSize = 2 ** header.clusterBits
  const own = snapshots.filter((other) => other.l1TableOffset === l1TableOffset).length
  return (
    length > 0 &&
    (rangesOverlap(l1TableOffset, length, 0, clusterSize) ||
      rangesOverlap(l1TableOffset, length, header.l1TableOffset, header.l1Size * entrySize) ||
      rangesOverlap(
        l1TableOffset,
        length,
        header.refcountTableOffset,
        header.refcountTableClusters * clusterSize,
      ) ||
      before.isMistakenL1(l1TableOffset, length, own))
  )
}

/** Repairing what it lies on would damage it again. */
function liesOnOthers(header: Header, length: number): boolean {
  const { snapshotsOffset, l1TableOffset, l1Size, clusterBits } = header
  const { refcountTableOffset, refcountTableClusters } = header
  const tableBytes = refcountTableClusters * 2 ** clusterBits
  return (
    rangesOverlap(snapshotsOffset, length, l1TableOffset, l1Size * entrySize) ||
    rangesOverlap(snapshotsOffset, length, refcountTableOffset, tableBytes)
  )
}
