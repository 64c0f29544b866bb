/**
 * The cluster map of a qcow2 image: where the disk's clusters lie, and what becomes of the tables
 * when they are written, zeroed or discarded. It changes tables in memory only; `write-back.ts`
 * brings them to the disk in an order that a crash cannot harm.
 */
import type { Allocation, ClusterMap } from '../../block/cluster-map.ts'
import type {
  Abilities,
  Completion,
  Extent,
  Io,
  Limits,
  WriteIo,
  ZeroIo,
} from '../../block/layer.ts'
import { backingLink } from './backing-link.ts'
import { ClusterAllocation } from './cluster-allocation.ts'
import { hex } from './faults.ts'
import type { FreeReason } from './frees.ts'
import type { Qcow2Image } from './image.ts'
import {
  compressedRun,
  countRun,
  entrySize,
  highOf,
  isCopied,
  kind,
  lowOf,
  offsetOf,
  setEntry,
  setZeroFlag,
  setZeroPlain,
} from './l2-table.ts'
import type { Table } from './table.ts'

/** The size of a disk is a multiple of this, and so are the requests on it. */
const sectorSize = 512

/** Freed runs that may wait for the next flush before one is made for their sake. */
const maxPendingFrees = 16_384

export class Qcow2Map implements ClusterMap {
  readonly limits: Limits
  readonly clusterSize: number
  readonly readOnly: boolean
  readonly zeroClusters: boolean
  readonly abilities: Omit<Abilities, 'compressed'>
  readonly #image: Qcow2Image
  /** Clusters may be holes of the file: see `isSparse`. */
  readonly #sparse: boolean
  #closed: Promise<void> | undefined

  constructor(image: Qcow2Image, abilities: Omit<Abilities, 'compressed'>, sparse = false) {
    const { clusterSize, version } = image.layout
    this.#image = image
    this.#sparse = sparse
    this.abilities = { backingLink: backingLink(image), ...abilities }
    this.clusterSize = clusterSize
    this.readOnly = image.readOnly
    this.zeroClusters = version >= 3
    const { limits } = image.file.layer
    this.limits = {
      ...limits,
      alignment: Math.max(sectorSize, limits.alignment),
      zeroAlignment: clusterSize,
      discardAlignment: clusterSize,
      preferredLength: clusterSize,
    }
  }

  get size(): number {
    return this.#image.header.current.size
  }

  map(offset: number, length: number, _io: Io): Extent | Promise<Extent> {
    const { l2Tables, layout } = this.#image
    const l1Index = layout.l1Index(offset)
    const tableOffset = l2Tables.offsetAt(l1Index)
    if (tableOffset === 0) return this.#withoutTable(l1Index, offset, length)
    const table = l2Tables.cached(tableOffset)
    return table ? this.#mapIn(table, l1Index, offset, length) : this.#load(offset, length)
  }

  allocate(offset: number, length: number, _io: Io): Allocation | Promise<Allocation> {
    const { l2Tables, layout } = this.#image
    const l1Index = layout.l1Index(offset)
    const table = l2Tables.isOwn(l1Index) ? l2Tables.cached(l2Tables.offsetAt(l1Index)) : undefined
    if (!table) return this.#allocateSlowly(l1Index, offset, length)
    table.pins++
    return this.#allocateIn(table, l1Index, offset, length)
  }

  async zero(offset: number, length: number, io: ZeroIo): Promise<void> {
    await this.#eachTable(offset, length, 'create', (table, first, count) => {
      for (let index = first; index < first + count; index++) {
        this.#zeroEntry(table, index, io.mayUnmap)
      }
    })
  }

  async discard(offset: number, length: number, _io: Io): Promise<void> {
    const backed = this.#image.header.current.backingFile !== undefined
    // Version 2 can only say "ask the backing file", which would bring old data back.
    if (backed && !this.zeroClusters) return
    await this.#eachTable(offset, length, backed ? 'create' : 'skip', (table, first, count) => {
      for (let index = first; index < first + count; index++)
        this.#discardEntry(table, index, backed)
    })
  }

  async readEncoded(offset: number, target: Uint8Array, io: Io): Promise<void> {
    await this.#image.compressed.read(offset, target, io)
  }

  async writeEncoded(offset: number, source: Uint8Array, io: WriteIo): Promise<void> {
    if (!(await this.#image.compressed.write(offset, source))) {
      await this.#writePlain(offset, source, io)
    }
  }

  async truncate(size: number, io: Io): Promise<void> {
    await this.#image.resize(size, io)
  }

  flush(io: Io): Completion {
    return this.#image.writeBack.flush(io)
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#closed ??= this.#image.close()
    return this.#closed
  }

  async #load(offset: number, length: number): Promise<Extent> {
    const { l2Tables, layout } = this.#image
    const l1Index = layout.l1Index(offset)
    const table = await l2Tables.load(l1Index)
    try {
      return this.#mapIn(table, l1Index, offset, length)
    } finally {
      table.unpin()
    }
  }

  /** A run of clusters that no L2 table describes, nor the tables behind it. */
  #withoutTable(l1Index: number, offset: number, length: number): Extent {
    const count = this.#extend(
      l1Index,
      this.#clustersLeft(offset),
      this.#clustersIn(offset, length),
    )
    return { offset, length: this.#lengthOf(offset, length, count), kind: 'backing' }
  }

  #mapIn(table: Table, l1Index: number, offset: number, length: number): Extent {
    const { layout } = this.#image
    const { view } = table
    const index = layout.l2Index(offset)
    const high = highOf(view, index)
    const low = lowOf(view, index)
    const fault = layout.faultOf(high, low)
    if (fault !== undefined) throw this.#fault(table, index, fault)

    const wanted = this.#clustersIn(offset, length)
    const here = Math.min(wanted, layout.entries - index)
    const entryKind = layout.kindOf(high, low)
    if (entryKind === kind.compressed) {
      const count = compressedRun(view, index, here)
      return { offset, length: this.#lengthOf(offset, length, count), kind: 'encoded' }
    }
    const step = entryKind === kind.data || entryKind === kind.zeroAllocated ? this.clusterSize : 0
    let count = countRun(view, index, here, high, low, step)
    if (count === layout.entries - index && count < wanted) {
      count = this.#extend(l1Index, count, wanted, high, low, step)
    }
    const run = this.#lengthOf(offset, length, count)
    switch (entryKind) {
      case kind.unallocated:
        return { offset, length: run, kind: 'backing' }
      case kind.zeroPlain:
        return { offset, length: run, kind: 'zero', allocated: false }
      default:
        return this.#hosted(table, index, offset, run)
    }
  }

  /** A run with host clusters, as far as the file reaches. */
  #hosted(table: Table, index: number, offset: number, length: number): Extent {
    const { file } = this.#image
    const high = highOf(table.view, index)
    const low = lowOf(table.view, index)
    const reserved = (low & 1) !== 0
    const cluster = offsetOf(high, reserved ? low - 1 : low)
    const start = cluster + (offset % this.clusterSize)
    const place = this.#image.metadataAt(cluster, length)
    if (place !== undefined) throw this.#fault(table, index, `points to ${hex(cluster)}, ${place}`)
    const inside = Math.min(length, file.size - start)
    if (inside <= 0) return this.#behindFile(table, index, offset, length, cluster)
    const host = {
      layer: file.layer,
      offset: start,
      length: inside,
      writable: isCopied(high) && !this.readOnly,
      sparse: this.#sparse,
    }
    return reserved
      ? { offset, length: inside, kind: 'zero', allocated: true, host }
      : { offset, length: inside, kind: 'data', host }
  }

  /** Only the last cluster of a file may be cut off; its missing part reads as zeroes. */
  #behindFile(
    table: Table,
    index: number,
    offset: number,
    length: number,
    cluster: number,
  ): Extent {
    if (cluster >= this.#image.file.size) {
      throw this.#fault(table, index, `points to ${hex(cluster)}, behind the end of the file`)
    }
    const rest = Math.min(length, this.clusterSize - (offset % this.clusterSize))
    return { offset, length: rest, kind: 'zero', allocated: true }
  }

  /**
   * Follows a run of `count` entries, which has reached the end of its table, through the tables
   * behind it that are in memory, or missing while the run is of unallocated clusters.
   */
  #extend(l1Index: number, count: number, wanted: number, high = 0, low = 0, step = 0): number {
    const { l2Tables, layout } = this.#image
    let total = count
    for (let next = l1Index + 1; total < wanted; next++) {
      const here = Math.min(layout.entries, wanted - total)
      if (l2Tables.isMissing(next)) {
        if (high !== 0 || low !== 0) break
        total += here
        continue
      }
      const view = l2Tables.peek(next)?.view
      if (!view) break
      const sum = low + total * step
      const found = countRun(view, 0, here, high + Math.floor(sum / 2 ** 32), sum % 2 ** 32, step)
      total += found
      if (found < here) break
    }
    return Math.min(total, wanted)
  }

  /** Clusters that a range touches. */
  #clustersIn(offset: number, length: number): number {
    return Math.ceil(((offset % this.clusterSize) + length) / this.clusterSize)
  }

  /** Clusters from `offset` to the end of what its L2 table describes. */
  #clustersLeft(offset: number): number {
    return this.#image.layout.entries - this.#image.layout.l2Index(offset)
  }

  /** Bytes of the first `count` clusters of a range that lie in it. */
  #lengthOf(offset: number, length: number, count: number): number {
    return Math.min(length, count * this.clusterSize - (offset % this.clusterSize))
  }

  /** One whole cluster as it is; the disk's last is filled up with zeroes. */
  async #writePlain(offset: number, source: Uint8Array, io: WriteIo): Promise<void> {
    const allocation = await this.allocate(offset, source.length, io)
    const cluster = new Uint8Array(this.clusterSize)
    cluster.set(source)
    try {
      await allocation.host.layer.write(allocation.host.offset, cluster, io)
    } catch (error) {
      await allocation.abandon()
      throw error
    }
    await allocation.link(io)
  }

  async #allocateSlowly(l1Index: number, offset: number, length: number): Promise<Allocation> {
    const table = await this.#image.ownTable(l1Index)
    return await this.#allocateIn(table, l1Index, offset, length)
  }

  /** Space for the first clusters of a range. `table` is pinned for the allocation. */
  #allocateIn(
    table: Table,
    l1Index: number,
    offset: number,
    length: number,
  ): Allocation | Promise<Allocation> {
    const { layout, allocator } = this.#image
    const index = layout.l2Index(offset)
    const guest = l1Index * layout.coverage + index * this.clusterSize
    const limit = Math.min(layout.entries - index, this.#clustersIn(offset, length))
    try {
      const kept = this.#keptRun(table, index, limit)
      if (kept > 0) return ClusterAllocation.reuse(this.#image, table, index, kept, guest)
      const run = allocator.take(this.#neededRun(table, index, limit))
      if (!(run instanceof Promise)) {
        return ClusterAllocation.of(this.#image, table, index, run, guest)
      }
      return run.then(
        (taken) => ClusterAllocation.of(this.#image, table, index, taken, guest),
        (error) => {
          table.unpin()
          throw error
        },
      )
    } catch (error) {
      table.unpin()
      throw error
    }
  }

  /** Entries from `index` on whose own host clusters were kept for being written. */
  #keptRun(table: Table, index: number, limit: number): number {
    const high = highOf(table.view, index)
    const low = lowOf(table.view, index)
    const fault = this.#image.layout.faultOf(high, low)
    if (fault !== undefined) throw this.#fault(table, index, fault)
    if (!this.#isKept(high, low)) return 0
    return countRun(table.view, index, limit, high, low, this.clusterSize)
  }

  /** Entries from `index` on that need new host clusters, at least one. */
  #neededRun(table: Table, index: number, limit: number): number {
    let count = 1
    while (
      count < limit &&
      !this.#isKept(highOf(table.view, index + count), lowOf(table.view, index + count))
    ) {
      count++
    }
    return count
  }

  #isKept(high: number, low: number): boolean {
    const entryKind = this.#image.layout.kindOf(high, low)
    return isCopied(high) && (entryKind === kind.zeroAllocated || entryKind === kind.data)
  }

  /** Goes through the L2 tables of a range of whole clusters, each ready to be changed. */
  async #eachTable(
    offset: number,
    length: number,
    missing: 'create' | 'skip',
    change: (table: Table, first: number, count: number) => void,
  ): Promise<void> {
    const { l2Tables, layout, frees, writeBack } = this.#image
    const end = offset + length
    for (let at = offset; at < end; ) {
      const l1Index = layout.l1Index(at)
      const stop = Math.min(end, (l1Index + 1) * layout.coverage)
      if (missing === 'create' || !l2Tables.isMissing(l1Index)) {
        const table = await this.#image.ownTable(l1Index)
        try {
          change(table, layout.l2Index(at), Math.ceil((stop - at) / this.clusterSize))
        } finally {
          table.unpin()
        }
      }
      at = stop
      if (frees.length > maxPendingFrees) await writeBack.flushChanges()
    }
  }

  #zeroEntry(table: Table, index: number, mayUnmap: boolean): void {
    const high = highOf(table.view, index)
    const low = lowOf(table.view, index)
    const entryKind = this.#checkedKind(table, index, high, low)
    if (entryKind === kind.zeroPlain) return
    const keep = !mayUnmap && isCopied(high)
    if (keep && entryKind === kind.zeroAllocated) return
    if (keep && entryKind === kind.data) {
      setZeroFlag(table.view, index)
    } else {
      this.#release(high, low, 'request')
      setZeroPlain(table.view, index)
    }
    table.touch(index * entrySize)
  }

  #discardEntry(table: Table, index: number, backed: boolean): void {
    const high = highOf(table.view, index)
    const low = lowOf(table.view, index)
    const entryKind = this.#checkedKind(table, index, high, low)
    if (entryKind === kind.zeroPlain || (entryKind === kind.unallocated && !backed)) return
    this.#release(high, low, 'request')
    if (this.zeroClusters) setZeroPlain(table.view, index)
    else setEntry(table.view, index, 0, 0)
    table.touch(index * entrySize)
  }

  #checkedKind(table: Table, index: number, high: number, low: number) {
    const { layout } = this.#image
    const fault = layout.faultOf(high, low)
    if (fault !== undefined) throw this.#fault(table, index, fault)
    return layout.kindOf(high, low)
  }

  #release(high: number, low: number, reason: FreeReason): void {
    this.#image.releaseEntry(high, low, reason)
  }

  #fault(table: Table, index: number, what: string) {
    const at = table.offset + index * entrySize
    return this.#image.faults.corrupt(`L2 entry ${index} ${what}`, at)
  }
}
