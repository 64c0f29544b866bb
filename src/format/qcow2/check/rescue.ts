/**
 * Repair of a header that does not lead to its tables any more, before anything else is repaired.
 * Refcounts are written anew afterwards, as if there had been none. The L1 table and the snapshot
 * table are looked for in the file; without its L1 table an image is not repaired, for all that it
 * led to would be taken for free space.
 */

import { plainIo } from '../../../block/layer.ts'
import { rangesOverlap } from '../../../bytes/range.ts'
import { viewOf } from '../../../bytes/view.ts'
import { type Header, l1SizeFor } from '../header.ts'
import { type TableFault, tableFaults } from '../header-tables.ts'
import { entrySize, highOf, l1Fault, lowOf, offsetOf } from '../l2-table.ts'
import { maxL1Bytes, maxRefcountOrder } from '../limits.ts'
import type { CheckRequest } from './check.ts'
import { findL1Table } from './lost-l1.ts'
import { findSnapshotTable, isElsewhere } from './lost-snapshots.ts'
import type { CheckedImage, References } from './references.ts'
import type { Report } from './report.ts'

/** 16 bits, as QEMU has it. */
const usualRefcountOrder = 4

/** `found`: what `tableFaults` says. Throws, before anything is written, where the disk is lost. */
export async function rescueTables(
  request: CheckRequest,
  report: Report,
  found: readonly TableFault[],
): Promise<void> {
  const { faults, file, state } = request
  const header = { ...request.header }
  const image = { ...request, header }
  const isLost = (table: TableFault['table']) => found.some((fault) => fault.table === table)
  const told: string[] = []
  if (isLost('refcounts')) forgetRefcounts(header, report, found)
  if (isLost('L1')) {
    const fitted = await fitL1Size(image)
    if (fitted !== undefined) told.push(fitted)
  }
  const message = await rescueSnapshots(image, isLost('snapshots'))
  if (message !== undefined) told.push(message)
  const lost = [...tableFaults(header, file.size, faults)].find(({ table }) => table === 'L1')
  if (lost) {
    const place =
      header.l1Size < l1SizeFor(header.size, header) ? undefined : await findL1Table(image)
    if (place === undefined) throw lost.error
    told.push(movedL1(header, place))
  }
  for (const message of told) report.corruption(message, true)
  Object.assign(state.current, header)
  if (told.length === 0) return
  await state.write({ ...state.current }, file)
  await file.flush()
}

/** What is written anew is told as what it was. */
function forgetRefcounts(header: Header, report: Report, found: readonly TableFault[]): void {
  const { refcountTableOffset, refcountTableClusters, clusterBits } = header
  const { error, readable } = found.find(({ table }) => table === 'refcounts')!
  if (!readable) {
    report.corruption(`refcount table: ${error.message}`)
  } else if (refcountTableClusters > 0) {
    const length = refcountTableClusters * 2 ** clusterBits
    report.corruption(
      ': counting reference for region exceeding the end of the file by one cluster or more: ' +
        `offset 0x${refcountTableOffset.toString(16)} size 0x${length.toString(16)}`,
    )
  }
  header.refcountTableOffset = 0
  header.refcountTableClusters = 0
  if (header.refcountOrder > maxRefcountOrder) header.refcountOrder = usualRefcountOrder
}

/** A table of a size that the disk cannot have gets the size that it needs. */
async function fitL1Size(image: CheckedImage): Promise<string | undefined> {
  const { header, file } = image
  const { l1Size, l1TableOffset, size, clusterBits } = header
  const needed = l1SizeFor(size, header)
  const message = `L1 table: l1_size=${l1Size}, but the disk needs ${needed}`
  if (l1Size < needed) {
    if (needed * entrySize > maxL1Bytes || !(await hasEntries(image, needed))) return undefined
  } else {
    const lies = l1TableOffset % 2 ** clusterBits === 0 && l1TableOffset < file.size
    if (
      l1Size * entrySize <= maxL1Bytes &&
      (!lies || l1TableOffset + l1Size * entrySize <= file.size)
    ) {
      return undefined
    }
  }
  header.l1Size = needed
  return message
}

/** Whether there is an L1 table of so many entries where the header says. */
async function hasEntries({ header, file }: CheckedImage, count: number): Promise<boolean> {
  const { l1TableOffset, clusterBits } = header
  const clusterSize = 2 ** clusterBits
  if (l1TableOffset % clusterSize !== 0 || l1TableOffset < clusterSize) return false
  if (l1TableOffset + count * entrySize > file.size) return false
  const bytes = new Uint8Array(count * entrySize)
  await file.read(l1TableOffset, bytes, plainIo)
  const view = viewOf(bytes)
  for (let index = 0; index < count; index++) {
    const high = highOf(view, index)
    const low = lowOf(view, index)
    if (l1Fault(high, low, clusterSize) || offsetOf(high, low) >= file.size) return false
  }
  return true
}

/** `lost`: no table can be where the header says; otherwise something else may be there. */
async function rescueSnapshots(image: CheckedImage, lost: boolean): Promise<string | undefined> {
  const { header } = image
  if (!lost && !(await isElsewhere(image))) return undefined
  const place = `snapshots_offset=0x${header.snapshotsOffset.toString(16)}`
  const was = `snapshot table: ${place} nb_snapshots=${header.nbSnapshots}`
  const found = await findSnapshotTable(image)
  if (!found && !lost) return undefined
  header.snapshotsOffset = found?.offset ?? 0
  header.nbSnapshots = found?.count ?? 0
  if (!found) return `${was}: there is no such table; the snapshots are lost`
  return `${was}: ${found.count} snapshots are at 0x${found.offset.toString(16)}`
}

function movedL1(header: Header, place: number): string {
  const was = `l1_offset=0x${header.l1TableOffset.toString(16)}`
  header.l1TableOffset = place
  return `L1 table: ${was} leads elsewhere; the table was found at 0x${place.toString(16)}`
}

/**
 * The same for an L1 table that is inside the file, but is something else. `before`: what was found
 * as it is. Whether another one was found.
 */
export async function rescueMisledL1(
  request: CheckRequest,
  report: Report,
  before: References,
): Promise<boolean> {
  const { header, file, state } = request
  if (header.l1Size === 0 || !(isOnOthers(header) || before.isMisledActiveL1())) return false
  const found = { ...header }
  const place = await findL1Table(request)
  if (place === undefined || place === header.l1TableOffset) return false
  report.corruption(movedL1(found, place), true)
  Object.assign(state.current, found)
  await state.write({ ...state.current }, file)
  await file.flush()
  return true
}

function isOnOthers({ l1TableOffset, l1Size, ...header }: Header): boolean {
  const clusterSize = 2 ** header.clusterBits
  const { refcountTableOffset, refcountTableClusters } = header
  const length = l1Size * entrySize
  return rangesOverlap(
    l1TableOffset,
    length,
    refcountTableOffset,
    refcountTableClusters * clusterSize,
  )
}
