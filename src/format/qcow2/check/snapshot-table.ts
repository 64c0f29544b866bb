/**
 * Repairing the snapshot table, before references are counted: entries get what they lack, and
 * those whose snapshot is lost are taken out, which frees what only they had. The new table is
 * written over the old one where it fits, and the header then says how many entries it has: a crash
 * in between leaves a table that is repaired again.
 */
import { alignUp } from '../../../bytes/range.ts'
import { joinEntries, scanSnapshotTable } from '../snapshot-table.ts'
import type { CheckRequest } from './check.ts'
import type { Report } from './report.ts'

export async function mendSnapshotTable(request: CheckRequest, report: Report): Promise<void> {
  const { file, header, state } = request
  if (header.nbSnapshots === 0) return
  const { snapshots, faults, length } = await scanSnapshotTable(file, header)
  if (faults.length === 0) return
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
  const room = alignUp(Math.max(length, 1), clusterSize)
  const place = bytes.length <= room ? header.snapshotsOffset : alignUp(file.size, clusterSize)
  if (bytes.length > 0) await file.write(place, bytes)
  await file.flush()
  state.current.nbSnapshots = entries.length
  state.current.snapshotsOffset = entries.length > 0 ? place : 0
  await state.write({ ...state.current }, file)
  await file.flush()
}
