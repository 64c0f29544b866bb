/**
 * What a header says of the tables that it leads to: the refcount table, the active L1 table and the
 * snapshot table. An image in which one of them cannot be where, or as long as, the header says is
 * not used; checked it is nevertheless, and repaired.
 */
import { alignUp, isAligned } from '../../bytes/range.ts'
import type { BlockError } from '../../errors.ts'
import type { Faults } from './faults.ts'
import { type Header, headerV3, l1SizeFor } from './header.ts'
import {
  maxHostOffset,
  maxL1Bytes,
  maxRefcountOrder,
  maxRefcountTableBytes,
  maxSnapshots,
} from './limits.ts'

export interface TableFault {
  readonly table: 'refcounts' | 'L1' | 'snapshots'
  /** Why the image is not used, in QEMU's words. */
  readonly error: BlockError
  /**
   * It can be told as it is found: tables may lie outside the file, where zeroes are read, but are no
   * larger than their limits. QEMU checks the image, too.
   */
  readonly readable: boolean
}

/** In QEMU's order. */
export function* tableFaults(
  header: Header,
  fileSize: number,
  faults: Faults,
): Generator<TableFault> {
  const clusterSize = 2 ** header.clusterBits
  const aligned = (offset: number) => isAligned(offset, clusterSize)
  const outside = (offset: number, length: number) =>
    offset < clusterSize ||
    offset + length > Math.min(maxHostOffset, alignUp(fileSize, clusterSize))
  const fault = (
    table: TableFault['table'],
    message: string,
    field: keyof typeof headerV3.offsets,
    readable = false,
  ): TableFault => {
    const error = faults.refuse('CORRUPT_IMAGE', message, headerV3.offsets[field])
    return { table, error, readable }
  }

  if (header.refcountOrder > maxRefcountOrder) {
    const message = 'Reference count entry width too large; may not exceed 64 bits'
    yield fault('refcounts', message, 'refcountOrder')
  }
  const l1Bytes = header.l1Size * 8
  if (l1Bytes > maxL1Bytes) yield fault('L1', 'Active L1 table too large', 'l1Size')
  if (header.l1Size < l1SizeFor(header.size, header)) {
    yield fault('L1', 'L1 table is too small', 'l1Size')
  }

  const { refcountTableOffset, refcountTableClusters } = header
  const refcountTableBytes = refcountTableClusters * clusterSize
  if (refcountTableClusters === 0) {
    const message = 'Image does not contain a reference count table'
    yield fault('refcounts', message, 'refcountTableClusters', true)
  } else if (refcountTableBytes > maxRefcountTableBytes) {
    yield fault('refcounts', 'Reference count table too large', 'refcountTableClusters')
  } else if (!aligned(refcountTableOffset) || outside(refcountTableOffset, refcountTableBytes)) {
    const message = 'Reference count table offset invalid'
    yield fault('refcounts', message, 'refcountTableOffset', aligned(refcountTableOffset))
  }
  const l1Offset = header.l1TableOffset
  if (header.l1Size > 0 && (!aligned(l1Offset) || outside(l1Offset, l1Bytes))) {
    yield fault('L1', 'Active L1 table offset invalid', 'l1TableOffset', aligned(l1Offset))
  }
  const { nbSnapshots, snapshotsOffset } = header
  if (nbSnapshots > maxSnapshots) {
    yield fault('snapshots', 'Snapshot table too large', 'nbSnapshots')
  } else if (nbSnapshots > 0) {
    if (!aligned(snapshotsOffset) || outside(snapshotsOffset, nbSnapshots * snapshotBytes)) {
      const message = 'Snapshot table offset invalid'
      yield fault('snapshots', message, 'snapshotsOffset', aligned(snapshotsOffset))
    }
  }
}

/** Bytes of the shortest entry of a snapshot table. */
const snapshotBytes = 40

/**
 * Refuses an image whose tables are lost. Who only reads has no use for refcounts, and snapshots that
 * are lost keep nobody from the disk. An image that has no refcounts at all is refused, as in QEMU. What
 * is checked is refused only where nothing can be told of it, nor repaired.
 */
export function refuseLostTables(
  header: Header,
  fileSize: number,
  faults: Faults,
  { readOnly, check = false }: { readonly readOnly: boolean; readonly check?: boolean },
): void {
  for (const { table, error, readable } of tableFaults(header, fileSize, faults)) {
    const none = table === 'refcounts' && header.refcountTableClusters === 0
    const needed = table === 'L1' || (table === 'refcounts' && !readOnly)
    const refused = check
      ? readOnly && !readable && table !== 'snapshots'
      : needed || none || !readable
    if (refused) throw error
  }
}
