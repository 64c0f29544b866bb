/**
 * Repairing the snapshot table, before references are counted: entries get what they lack, and
 * those whose snapshot is lost are taken out, which frees what only they had. The new table lies
 * behind the end of the file, for the place that the header names may be the wrong one and hold
 * something else; then one write of the header's sector puts it in force.
 */
import { alignUp, rangesOverlap } from '../../../bytes/range.ts'
import type { Header } from '../header.ts'
import { entrySize } from '../l2-table.ts'
import { joinEntries, type Snapshot, scanSnapshotTable } from '../snapshot-table.ts'
import type { CheckRequest } from './check.ts'
import type { References } from './references.ts'
import type { Report } from './report.ts'

export async function mendSnapshotTable(
  request: CheckRequest,
  report: Report,
  before: References,
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
    if (fault) report.corruption(fault.message, true)
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
  const place = alignUp(file.end, clusterSize)
  if (bytes.length > 0) {
    const whole = new Uint8Array(alignUp(bytes.length, clusterSize))
    whole.set(bytes)
    await file.write(place, whole)
  }
  await file.flush()
  state.current.nbSnapshots = entries.length
  state.current.snapshotsOffset = entries.length > 0 ? place : 0
  await state.write({ ...state.current }, file)
  await file.flush()
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
