/**
 * Repairing the snapshot table, before references are counted: entries get what they lack, and
 * those whose snapshot is lost are taken out, which frees what only they had. The new table lies
 * behind the end of the file, for the place that the header names may be the wrong one and hold
 * something else; then one write of the header's sector puts it in force.
 */
import { alignUp, rangesOverlap } from '../../../bytes/range.ts'
import type { Header } from '../header.ts'
import { entrySize } from '../l2-table.ts'
import { joinEntries, scanSnapshotTable } from '../snapshot-table.ts'
import type { CheckRequest } from './check.ts'
import type { Report } from './report.ts'

export async function mendSnapshotTable(request: CheckRequest, report: Report): Promise<void> {
  const { file, header, state } = request
  if (header.nbSnapshots === 0) return
  const { snapshots, faults, length } = await scanSnapshotTable(file, header)
  const covered = liesOnOthers(header, length)
  if (faults.length === 0 && !covered) return
  if (covered) report.corruption('the snapshot table lies on other metadata', true)
  const byIndex = new Map(faults.map((fault) => [fault.index, fault]))
  const usable = snapshots.values()
  const entries: Uint8Array[] = []
  for (let index = 0; index < header.nbSnapshots; index++) {
    const fault = byIndex.get(index)
    // Those that are usable come in order, the harmless ones among them.
    const own = !fault || fault.harmless ? usable.next().value : undefined
    const entry = fault ? fault.mended : own?.entry
    if (entry) entries.push(entry)
    if (fault) report.corruption(fault.message, true)
  }
  const bytes = joinEntries(entries)
  const clusterSize = 2 ** header.clusterBits
  const place = alignUp(file.size, clusterSize)
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
