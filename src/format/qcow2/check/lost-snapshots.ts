/**
 * Finding the snapshot table where the header does not lead to it any more: a cluster that nothing
 * else refers to, and that begins with entries as a snapshot table has them.
 */
import { plainIo } from '../../../block/layer.ts'
import { viewOf } from '../../../bytes/view.ts'
import { maxL1Bytes, maxSnapshotExtraBytes, maxSnapshots } from '../limits.ts'
import { type Snapshot, scanSnapshotTable, snapshotEntry } from '../snapshot-table.ts'
import { look } from './look.ts'
import type { CheckedImage } from './references.ts'
import { areSound, clustersOf, readStoredCounts } from './stored-counts.ts'

export interface SnapshotPlace {
  readonly offset: number
  /** Entries. */
  readonly count: number
}

/** Whether there is no snapshot at all where the header says. */
export async function isElsewhere(image: CheckedImage): Promise<boolean> {
  const { nbSnapshots, snapshotsOffset } = image.header
  return nbSnapshots > 0 && (await countSnapshots(image, snapshotsOffset, 1)) === 0
}

/** Where the table may be that `header` leads to no more: the one with most snapshots, up to its number. */
export async function findSnapshotTable(image: CheckedImage): Promise<SnapshotPlace | undefined> {
  const { file, header } = image
  const wanted = Math.min(header.nbSnapshots, maxSnapshots)
  const own = await countSnapshots(image, header.snapshotsOffset, wanted)
  if (own > 0) return { offset: header.snapshotsOffset, count: own }
  const others = { ...image, header: { ...header, nbSnapshots: 0 } }
  const stored = await readStoredCounts(others)
  const { counts } = await look(others, stored)
  let best: SnapshotPlace | undefined
  for (let cluster = 1; cluster < clustersOf(image); cluster++) {
    if (counts.get(cluster) > 0) continue
    // What is free may hold a table of long ago.
    if (areSound(stored) && stored.counts.get(cluster) === 0) continue
    const offset = cluster * file.clusterSize
    const count = await countSnapshots(image, offset, wanted)
    if (count > (best?.count ?? 0)) best = { offset, count }
    if (count === wanted) break
  }
  return best
}

/** How many snapshots, at most `most`, are at a place of the file. */
async function countSnapshots(
  { file, header }: CheckedImage,
  offset: number,
  most: number,
): Promise<number> {
  if (offset % file.clusterSize !== 0 || offset < file.clusterSize || offset >= file.size) return 0
  const head = new Uint8Array(snapshotEntry.size)
  await file.read(offset, head, plainIo)
  if (!mayBegin(head, file.clusterSize)) return 0
  const there = { ...header, snapshotsOffset: offset, nbSnapshots: most }
  const { snapshots, faults } = await scanSnapshotTable(file, there)
  const broken = faults.find(({ harmless }) => !harmless)?.index ?? most
  const end = snapshots.findIndex((snapshot) => !isSnapshot(snapshot))
  return Math.min(broken, end < 0 ? snapshots.length : end)
}

/** Enough to tell an entry from most other things. */
function mayBegin(head: Uint8Array, clusterSize: number): boolean {
  const view = viewOf(head)
  const { offsets } = snapshotEntry
  const l1Bytes = view.getUint32(offsets.l1Size) * 8
  return (
    view.getUint32(offsets.l1TableOffset + 4) % clusterSize === 0 &&
    l1Bytes > 0 &&
    l1Bytes <= maxL1Bytes &&
    view.getUint16(offsets.idSize) > 0 &&
    view.getUint32(offsets.extraDataSize) <= maxSnapshotExtraBytes
  )
}

function isSnapshot({ id, l1TableOffset, l1Size }: Snapshot): boolean {
  return /^[\x20-\x7e]+$/.test(id) && l1TableOffset > 0 && l1Size > 0
}
