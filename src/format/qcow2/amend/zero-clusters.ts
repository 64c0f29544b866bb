/**
 * Version 2 has no entries for clusters that read as zeroes. Without a backing file an unallocated
 * cluster reads as zeroes as well; above one, zeroes have to be stored.
 *
 * The active tables are changed as any write changes them: the data before its entry, through the
 * write-back. Tables that only snapshots have are rewritten where they are, after what their new
 * entries refer to is counted and on stable storage; clusters that the old ones had lose their
 * references afterwards.
 */
import { type Io, plainIo, plainZeroIo } from '../../../block/layer.ts'
import { viewOf } from '../../../bytes/view.ts'
import type { Qcow2Image } from '../image.ts'
import {
  clusterOf,
  entrySize,
  highOf,
  isCopied,
  kind,
  l1Fault,
  lowOf,
  offsetOf,
  setCopied,
  setEntry,
  setShared,
} from '../l2-table.ts'
import type { HostOffset } from '../offsets.ts'
import { ownTable } from '../own-table.ts'
import { readSnapshotTable } from '../snapshot-table.ts'
import type { Table } from '../table.ts'

/** Runs alone. */
export async function expandZeroClusters(image: Qcow2Image, io: Io): Promise<void> {
  const { l2Tables, header, writeBack } = image
  for (let l1Index = 0; l1Index < header.current.l1Size; l1Index++) {
    io.signal.throwIfAborted()
    if (l2Tables.isMissing(l1Index) || !(await hasZeroes(image, l1Index))) continue
    const table = await ownTable(image, l1Index)
    try {
      for (let index = 0; index < image.layout.entries; index++) await expand(image, table, index)
    } finally {
      table.unpin()
    }
    await image.releaseMany()
  }
  await writeBack.finish()
  for (const [offset, times] of await snapshotTables(image)) {
    io.signal.throwIfAborted()
    await expandShared(image, offset, times)
  }
}

async function hasZeroes(image: Qcow2Image, l1Index: number): Promise<boolean> {
  const table = await image.l2Tables.load(l1Index)
  table.unpin()
  for (let index = 0; index < image.layout.entries; index++) {
    if (isZeroEntry(image, table.view, index)) return true
  }
  return false
}

function isZeroEntry({ layout }: Qcow2Image, view: DataView, index: number): boolean {
  const entryKind = layout.kindOf(highOf(view, index), lowOf(view, index))
  return entryKind === kind.zeroPlain || entryKind === kind.zeroAllocated
}

async function expand(image: Qcow2Image, table: Table, index: number): Promise<void> {
  const { view } = table
  if (!isZeroEntry(image, view, index)) return
  const high = highOf(view, index)
  const low = lowOf(view, index)
  const own = isCopied(high) && image.layout.kindOf(high, low) === kind.zeroAllocated
  if (own) {
    const cluster = clusterOf(high, low)
    await storeZeroes(image, cluster)
    setCopied(view, index, cluster)
  } else {
    const cluster = hasBacking(image) ? await newZeroes(image) : undefined
    image.releaseEntry(high, low, 'other')
    if (cluster === undefined) setEntry(view, index, 0, 0)
    else setCopied(view, index, cluster)
  }
  table.touch(index * entrySize)
}

function hasBacking(image: Qcow2Image): boolean {
  return image.header.current.backingFile !== undefined
}

async function newZeroes(image: Qcow2Image): Promise<HostOffset> {
  const { offset } = await image.allocator.take(1)
  const zeroed = image.space.claim(offset, image.layout.clusterSize)
  if (!zeroed) await storeZeroes(image, offset)
  return offset
}

async function storeZeroes({ space, layout }: Qcow2Image, offset: HostOffset): Promise<void> {
  await space.layer.writeZeroes(offset, layout.clusterSize, plainZeroIo)
}

/** L2 tables of snapshots, and by how many of them each is shared. */
async function snapshotTables(image: Qcow2Image): Promise<Map<HostOffset, number>> {
  const { file, faults, layout } = image
  const { current } = image.header
  const tables = new Map<HostOffset, number>()
  if (current.nbSnapshots === 0) return tables
  const { snapshots } = await readSnapshotTable(file, current, faults)
  for (const { l1TableOffset, l1Size } of snapshots) {
    const l1 = new Uint8Array(l1Size * entrySize)
    await file.read(l1TableOffset, l1, plainIo)
    const view = viewOf(l1)
    for (let index = 0; index < l1Size; index++) {
      const high = highOf(view, index)
      const low = lowOf(view, index)
      const fault = l1Fault(high, low, layout.clusterSize)
      if (fault !== undefined) {
        throw faults.corrupt(`L1 entry ${index} ${fault}`, l1TableOffset + index * entrySize)
      }
      const offset = offsetOf(high, low)
      if (offset !== 0) tables.set(offset, (tables.get(offset) ?? 0) + 1)
    }
  }
  return tables
}

/**
 * A table of `times` snapshots: each of its references counts as often. The active disk has copies
 * of all tables with zeroes by now.
 */
async function expandShared(image: Qcow2Image, offset: HostOffset, times: number): Promise<void> {
  const { file, layout, allocator, writeBack, l2Tables } = image
  const table = new Uint8Array(layout.clusterSize)
  await file.read(offset, table, plainIo)
  const view = viewOf(table)
  const released: { high: number; low: number }[] = []
  for (let index = 0; index < layout.entries; index++) {
    if (!isZeroEntry(image, view, index)) continue
    released.push({ high: highOf(view, index), low: lowOf(view, index) })
    if (!hasBacking(image)) {
      setEntry(view, index, 0, 0)
      continue
    }
    const cluster = await newZeroes(image)
    for (let more = 1; more < times; more++) {
      if (!(await allocator.share(cluster))) {
        throw image.faults.unsupported('a refcount would have to be higher than it can be')
      }
    }
    setShared(view, index, cluster)
  }
  if (released.length === 0) return
  await writeBack.finish()
  await file.write(offset, table)
  await file.flush()
  l2Tables.cache.drop(offset / layout.clusterSize)
  for (const { high, low } of released) {
    for (let time = 0; time < times; time++) image.releaseEntry(high, low, 'other')
  }
  await writeBack.finish()
}
