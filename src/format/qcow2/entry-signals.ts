/**
 * L2 entries that show, when they are met, that the image is corrupt: made known in QEMU's words.
 * Other entries that contradict the format fail the request that meets them, and no more.
 */
import type { BlockError } from '../../errors.ts'
import { hex, hexOrZero } from './faults.ts'
import type { Qcow2Image } from './image.ts'
import { clusterOf, highOf, isZero, kind, lowOf } from './l2-table.ts'
import { allocatedOf, zeroOf } from './subclusters.ts'
import type { Table } from './table.ts'

/** Undefined where nothing is said. `what` is read. */
export function readSignal(image: Qcow2Image, table: Table, index: number): BlockError | undefined {
  const { layout, corruption } = image
  const high = highOf(table.view, layout.wordOf(index))
  const low = lowOf(table.view, layout.wordOf(index))
  const entryKind = layout.kindOf(high, low)
  const place = `L2 offset: ${hex(table.offset)}, L2 index: ${hexOrZero(index)}`
  const signal = (message: string) =>
    corruption.signal(message, table.offset + index * layout.entryBytes)
  if (entryKind === kind.compressed) {
    if (!layout.external) return undefined
    return signal(`Compressed cluster entry found in image with external data file (${place})`)
  }
  if (layout.extended && isContradiction(table.view, index, entryKind)) {
    return signal(`Invalid cluster entry found  (${place})`)
  }
  if (layout.version < 3 && isZero(low)) {
    return signal(`Zero cluster entry found in pre-v3 image (${place})`)
  }
  const cluster = clusterOf(high, low - (low % 512))
  if (entryKind !== kind.unallocated && cluster % layout.clusterSize !== 0) {
    return signal(`Cluster allocation offset ${hex(cluster)} unaligned (${place})`)
  }
  return undefined
}

function isContradiction(view: DataView, index: number, entryKind: number): boolean {
  const allocated = allocatedOf(view, index)
  return entryKind === kind.unallocated ? allocated !== 0 : (allocated & zeroOf(view, index)) !== 0
}

/** A cluster of a data file that is another one's. */
export function elsewhereSignal(
  image: Qcow2Image,
  table: Table,
  index: number,
  { cluster, guest }: { readonly cluster: number; readonly guest: number },
): BlockError {
  const { layout, corruption } = image
  return corruption.signal(
    `External data file host cluster offset ${hexOrZero(cluster)} does not match guest cluster ` +
      `offset: ${hexOrZero(guest)}, L2 index: ${hexOrZero(index)})`,
    table.offset + index * layout.entryBytes,
  )
}

/** An entry that keeps a cluster for what is going to be written at `guest`. */
export function writeSignal(
  image: Qcow2Image,
  table: Table,
  index: number,
  guest: number,
): BlockError | undefined {
  const { layout, corruption } = image
  const high = highOf(table.view, layout.wordOf(index))
  const low = lowOf(table.view, layout.wordOf(index))
  const entryKind = layout.kindOf(high, low)
  if (entryKind === kind.compressed) return undefined
  if (layout.extended && isContradiction(table.view, index, entryKind)) {
    const place = `L2 offset: ${hex(table.offset)}, L2 index: ${hexOrZero(index)}`
    return corruption.signal(
      `Invalid cluster entry found (${place})`,
      table.offset + index * layout.entryBytes,
    )
  }
  const cluster = clusterOf(high, low - (low % 512))
  if (cluster % layout.clusterSize === 0) return undefined
  const what = entryKind === kind.zeroAllocated ? 'Preallocated zero' : 'Data'
  return corruption.signal(
    `${what} cluster offset ${hex(cluster)} unaligned (guest offset: ${hexOrZero(guest)})`,
    table.offset + index * layout.entryBytes,
  )
}

/** An entry that contradicts the format, which fails the request that meets it and no more. */
export function entryFault(
  image: Qcow2Image,
  table: Table,
  index: number,
  what: string,
): BlockError {
  return image.faults.corruptEntry(index, what, table.offset + index * image.layout.entryBytes)
}
