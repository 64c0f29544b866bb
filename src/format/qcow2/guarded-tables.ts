/** Tells the guard where the metadata of an image lies; see `MetadataGuard`. */

import { viewOf } from '../../bytes/view.ts'
import { readBitmapPlace } from './bitmap-directory.ts'
import { readPlace } from './encryption/place.ts'
import type { Qcow2Image } from './image.ts'
import { readL1Table } from './l1-references.ts'
import { entrySize, highOf, l1Fault, lowOf, offsetOf } from './l2-table.ts'
import { scanSnapshotTable } from './snapshot-table.ts'

/** Begins anew. What the tables change afterwards they tell themselves. */
export async function guardMetadata(image: Qcow2Image): Promise<void> {
  const { guard, header, layout, refcounts } = image
  const { l1TableOffset, l1Size } = header.current
  guard.clear()
  guard.add('main-header', 0, layout.clusterSize)
  const keys = readPlace(header.current, image.faults)
  if (keys) guard.add('main-header', keys.offset, Math.min(keys.length, image.file.size))
  guard.add('active-l1', l1TableOffset, l1Size * entrySize)
  if (guard.guards('active-l2')) guardL2(image, image.l2Tables.l1.bytes, 'active-l2')
  refcounts.guardAll()
  await guardSnapshots(image)
  const directory = readBitmapPlace(header.current)
  if (directory) guard.add('bitmap-directory', directory.offset, directory.length)
}

async function guardSnapshots(image: Qcow2Image): Promise<void> {
  const { guard, header, file } = image
  const kinds = ['snapshot-table', 'inactive-l1', 'inactive-l2'] as const
  if (header.current.nbSnapshots === 0 || !kinds.some((kind) => guard.guards(kind))) return
  // Those that are lost keep nobody from the disk; snapshots are refused by whoever changes them.
  const { snapshots, length } = await scanSnapshotTable(file, header.current)
  guard.add('snapshot-table', header.current.snapshotsOffset, length)
  for (const { l1TableOffset, l1Size } of snapshots) {
    guard.add('inactive-l1', l1TableOffset, l1Size * entrySize)
    if (!guard.guards('inactive-l2')) continue
    guardL2(image, await readL1Table(image, l1TableOffset, l1Size), 'inactive-l2')
  }
}

/** Entries that make no sense are left to whoever uses them. */
function guardL2(
  { guard, layout }: Qcow2Image,
  l1: Uint8Array,
  kind: 'active-l2' | 'inactive-l2',
): void {
  const view = viewOf(l1)
  for (let index = 0; index < l1.length / entrySize; index++) {
    const high = highOf(view, index)
    const low = lowOf(view, index)
    if ((high === 0 && low === 0) || l1Fault(high, low, layout.clusterSize)) continue
    const offset = offsetOf(high, low)
    if (offset > 0) guard.add(kind, offset, layout.clusterSize)
  }
}
