/**
 * What an L1 table refers to: its L2 tables and their clusters, for those who change counts and
 * flags of all of them at once. An L2 table that several entries share is read once, so a hostile
 * table cannot make the walk longer than the file.
 */
import { plainIo } from '../../block/layer.ts'
import { viewOf } from '../../bytes/view.ts'
import type { Qcow2Image } from './image.ts'
import {
  clusterOf,
  countRun,
  entrySize,
  highOf,
  isCopied,
  kind,
  l1Fault,
  lowOf,
  offsetOf,
  setEntry,
} from './l2-table.ts'
import { type HostOffset, hostOffset } from './offsets.ts'
import type { Switchover } from './switchover.ts'

/** Bytes of an L1 table in the file. Its place and size have been checked. */
export async function readL1Table(
  { file }: Qcow2Image,
  offset: number,
  entries: number,
): Promise<Uint8Array> {
  const bytes = new Uint8Array(entries * entrySize)
  await file.read(offset, bytes, plainIo)
  return bytes
}

/** The same; throws for a broken entry, and says where that is. */
export async function readSoundL1Table(
  image: Qcow2Image,
  offset: number,
  entries: number,
): Promise<Uint8Array> {
  const bytes = await readL1Table(image, offset, entries)
  for (let index = 0; index < entries; index++) tableAt(image, bytes, index, offset)
  return bytes
}

/**
 * Where the L2 table of an entry lies; 0 where there is none. Throws for a broken entry; `l1Offset`
 * is where the L1 table lies.
 */
export function tableAt(
  image: Qcow2Image,
  l1: Uint8Array,
  index: number,
  l1Offset?: number,
): HostOffset {
  const high = highOf(viewOf(l1), index)
  const low = lowOf(viewOf(l1), index)
  if (high === 0 && low === 0) return hostOffset(0)
  const fault = l1Fault(high, low, image.layout.clusterSize)
  const offset = offsetOf(high, low)
  if (fault === undefined && offset < image.file.size) return offset
  throw image.faults.corrupt(
    `L1 entry ${index} ${fault ?? 'points behind the end of the file'}`,
    l1Offset === undefined ? undefined : l1Offset + index * entrySize,
  )
}

/** Notes that the entries `first` to `end` - 1 refer to their tables and clusters, `by` times each. */
export async function referAll(
  image: Qcow2Image,
  change: Switchover,
  l1: Uint8Array,
  by: 1 | -1,
  first = 0,
  end = l1.length / entrySize,
): Promise<void> {
  const { clusterSize } = image.layout
  const times = new Map<HostOffset, number>()
  for (let index = first; index < end; index++) {
    const table = tableAt(image, l1, index)
    if (table !== 0) times.set(table, (times.get(table) ?? 0) + by)
  }
  const bytes = new Uint8Array(clusterSize)
  for (const [table, count] of times) {
    change.refer(table / clusterSize, 1, count)
    await image.file.read(table, bytes, plainIo)
    referEntries(image, change, table, bytes, count)
  }
}

function referEntries(
  image: Qcow2Image,
  change: Switchover,
  table: HostOffset,
  bytes: Uint8Array,
  by: number,
): void {
  const { layout } = image
  const { clusterSize, entries } = layout
  const view = viewOf(bytes)
  for (let index = 0; index < entries; index++) {
    const word = layout.wordOf(index)
    const high = highOf(view, word)
    const low = lowOf(view, word)
    if (high === 0 && low === 0) continue
    const fault = layout.faultAt(view, index)
    if (fault !== undefined) {
      const at = table + index * layout.entryBytes
      throw image.faults.corruptEntry(index, `${fault}; check and repair the image`, at)
    }
    switch (layout.kindOf(high, low)) {
      case kind.data:
      case kind.zeroAllocated: {
        const limit = layout.extended ? 1 : entries - index
        const run = countRun(view, word, limit, high, low, clusterSize)
        change.refer(clusterOf(high, low) / clusterSize, run, by)
        index += run - 1
        break
      }
      case kind.compressed: {
        const offset = layout.compressedOffset(high, low)
        const first = Math.floor(offset / clusterSize)
        const length = layout.compressedLength(high, low)
        change.refer(first, Math.ceil((offset + length) / clusterSize) - first, by)
      }
    }
  }
}

/**
 * Makes the flags of an L2 table say which of its clusters will have one reference, `own` being
 * false where all are shared. Whether anything has changed.
 */
export function setFlags(
  image: Qcow2Image,
  bytes: Uint8Array,
  own: (cluster: number) => boolean,
): boolean {
  const { layout } = image
  const view = viewOf(bytes)
  let changed = false
  for (let index = 0; index < layout.entries; index++) {
    const word = layout.wordOf(index)
    const high = highOf(view, word)
    const low = lowOf(view, word)
    const entryKind = layout.kindOf(high, low)
    if (entryKind !== kind.data && entryKind !== kind.zeroAllocated) continue
    const wanted = own(clusterOf(high, low) / layout.clusterSize)
    if (wanted === isCopied(high)) continue
    setEntry(view, word, wanted ? high + copiedHigh : high - copiedHigh, low)
    changed = true
  }
  return changed
}

const copiedHigh = 2 ** 31
