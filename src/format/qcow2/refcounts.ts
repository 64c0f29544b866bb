/**
 * The refcount table, held in memory whole, and a cache of the blocks that it points to. Blocks in
 * memory hold only counts that are safe to have on disk at any moment: an increase comes before
 * the reference, a decrease after the reference is gone for good. So they may be written whenever
 * it suits.
 */

import { plainIo } from '../../block/layer.ts'
import { alignUp, type ByteRange } from '../../bytes/range.ts'
import type { BlockError } from '../../errors.ts'
import { type Faults, hex, hexOrZero } from './faults.ts'
import type { HeaderState } from './header-state.ts'
import type { ImageFile } from './image-file.ts'
import { entrySize, rawOf, setShared } from './l2-table.ts'
import { maxHostOffset, maxRefcountTableBytes } from './limits.ts'
import type { MetadataGuard } from './metadata-guard.ts'
import { type HostOffset, type HostRun, hostOffset } from './offsets.ts'
import { RefcountLayout } from './refcount.ts'
import { Table } from './table.ts'
import { TableCache } from './table-cache.ts'

export class Refcounts {
  /** Changes with the width of refcounts, in `reload`. */
  layout: RefcountLayout
  readonly cache: TableCache
  /** Blocks with changes. */
  readonly changedBlocks = new Set<Table>()
  readonly changedTable = new Set<Table>()
  readonly #file: ImageFile
  readonly #header: HeaderState
  readonly #faults: Faults
  readonly #guard: MetadataGuard
  readonly #clusterSize: number
  #table: Table
  /** Makes an entry known that leads to no cluster. Set once, by whoever knows how to. */
  unaligned: (message: string, at: number) => BlockError = (message, at) =>
    this.#faults.corrupt(message, at)
  /** Makes room in the cache by writing blocks. Set once, by whoever knows how to. */
  makeRoom: () => Promise<void> = async () => {}

  private constructor(
    file: ImageFile,
    header: HeaderState,
    faults: Faults,
    guard: MetadataGuard,
    capacity: number,
    table: Uint8Array,
  ) {
    this.#guard = guard
    const { refcountOrder, clusterBits, refcountTableOffset } = header.current
    this.#file = file
    this.#header = header
    this.#faults = faults
    this.#clusterSize = 2 ** clusterBits
    this.layout = new RefcountLayout(refcountOrder, this.#clusterSize)
    this.cache = new TableCache(capacity)
    this.#table = new Table(table, hostOffset(refcountTableOffset), this.changedTable, false)
  }

  /** Reads the refcount table, whose place was approved (`header-tables.ts`). */
  static async open(
    file: ImageFile,
    header: HeaderState,
    faults: Faults,
    guard: MetadataGuard,
    capacity: number,
  ): Promise<Refcounts> {
    const table = await readRefcountTable(file, header)
    return new Refcounts(file, header, faults, guard, capacity, table)
  }

  /** Forgets everything and reads the table again: somebody else has changed the file. */
  async reload(): Promise<void> {
    const table = await readRefcountTable(this.#file, this.#header)
    const offset = hostOffset(this.#header.current.refcountTableOffset)
    this.changedBlocks.clear()
    this.changedTable.clear()
    this.cache.clear()
    this.layout = new RefcountLayout(this.#header.current.refcountOrder, this.#clusterSize)
    this.#table = new Table(table, offset, this.changedTable, false)
    this.guardAll()
  }

  get table(): Table {
    return this.#table
  }

  /** Blocks that the table can point to. */
  get blockLimit(): number {
    return this.#table.bytes.length / entrySize
  }

  blockIndex(cluster: number): number {
    return Math.floor(cluster / this.layout.entries)
  }

  /** Offset of a block; 0 where it does not exist and its clusters are free. */
  blockOffset(index: number): HostOffset {
    if (index >= this.blockLimit) return hostOffset(0)
    const offset = rawOf(this.#table.view, index)
    const place = offset - (offset % 512)
    if (place % this.#clusterSize !== 0) {
      throw this.unaligned(
        `Refblock offset ${hex(place)} unaligned (reftable index: ${hexOrZero(index)})`,
        this.#table.offset + index * entrySize,
      )
    }
    if (offset !== place) throw this.#faultAt(index, 'has reserved bits set')
    if (offset > maxHostOffset) throw this.#faultAt(index, `points to ${hex(offset)}, beyond 2^53`)
    return hostOffset(offset)
  }

  /** Tells the guard where the table and its blocks lie. */
  guardAll(): void {
    const size = this.#clusterSize
    this.#guard.add('refcount-table', this.#table.offset, this.#table.bytes.length)
    if (!this.#guard.guards('refcount-block')) return
    for (let index = 0; index < this.blockLimit; index++) {
      const offset = rawOf(this.#table.view, index)
      const sound = offset > 0 && offset % size === 0 && offset <= maxHostOffset
      if (sound) this.#guard.add('refcount-block', offset, size)
    }
  }

  /** A block in memory; undefined when it has to be loaded or does not exist. */
  cached(index: number): Table | undefined {
    return this.cache.get(index)
  }

  /**
   * A block that exists, pinned. `urgent`: do not wait for room, for those whom making room waits
   * for.
   */
  async load(index: number, urgent = false): Promise<Table> {
    if (!this.cache.hasRoom() && !urgent) await this.makeRoom()
    return await this.cache.load(index, () => this.#read(index))
  }

  /** The refcount of a cluster. */
  async get(cluster: number): Promise<number> {
    const index = this.blockIndex(cluster)
    if (this.blockOffset(index) === 0) return 0
    const block = await this.load(index, true)
    block.unpin()
    return this.layout.get(block.view, cluster % this.layout.entries)
  }

  set(block: Table, cluster: number, value: number): void {
    if (!block.dirty) this.#guard.checkTable('refcount-block', block.offset, this.#clusterSize)
    const index = cluster % this.layout.entries
    this.layout.set(block.view, index, value)
    block.touch(this.layout.byteOf(index))
  }

  /**
   * Makes the block that counts `cluster`, in that cluster itself. Nobody uses it: no block counted
   * it so far.
   */
  addBlock(cluster: number): Table {
    const index = this.blockIndex(cluster)
    const bytes = this.layout.blockOf(this.#clusterSize, cluster % this.layout.entries, 1)
    return this.#adopt(index, cluster, bytes)
  }

  /**
   * Moves the refcount table to a place where it can be larger: behind everything that it counts
   * so far, together with the blocks that count that place. Returns the clusters of the old one.
   */
  growTable(): HostRun {
    const oldTable = this.#table
    const { size, tableClusters, firstIndex, first, blocks, used } = this.#grown()

    const bytes = new Uint8Array(size)
    bytes.set(oldTable.bytes)
    const offset = hostOffset((first + blocks) * this.#clusterSize)
    this.#table = new Table(bytes, offset, this.changedTable, true)
    this.#guard.remove('refcount-table', oldTable.offset, oldTable.bytes.length)
    this.#guard.add('refcount-table', offset, size)
    oldTable.retire()
    for (let at = 0; at < blocks; at++) {
      const counted = Math.min(this.layout.entries, used - at * this.layout.entries)
      const block = this.layout.blockOf(this.#clusterSize, 0, counted)
      this.#adopt(firstIndex + at, first + at, block)
    }
    this.#header.current.refcountTableOffset = offset
    this.#header.current.refcountTableClusters = tableClusters
    this.#file.claim(first * this.#clusterSize, used * this.#clusterSize)
    return { offset: oldTable.offset, count: oldTable.bytes.length / this.#clusterSize }
  }

  /** Where a larger table and its blocks will lie. */
  grownPlace(): ByteRange {
    const { first, used } = this.#grown()
    return { offset: first * this.#clusterSize, length: used * this.#clusterSize }
  }

  #grown() {
    const size = this.#grownSize()
    const tableClusters = size / this.#clusterSize
    const firstIndex = this.blockLimit
    const first = firstIndex * this.layout.entries
    const blocks = Math.ceil(tableClusters / (this.layout.entries - 1))
    const used = blocks + tableClusters
    if (firstIndex + blocks > size / entrySize) throw this.#full()
    return { size, tableClusters, firstIndex, first, blocks, used }
  }

  #adopt(index: number, cluster: number, bytes: Uint8Array): Table {
    const offset = hostOffset(cluster * this.#clusterSize)
    const block = new Table(bytes, offset, this.changedBlocks, true)
    this.#guard.add('refcount-block', offset, bytes.length)
    this.cache.hasRoom()
    this.cache.add(index, block)
    setShared(this.#table.view, index, offset)
    this.#table.touch(index * entrySize)
    return block
  }

  /** Half as much again, and at least a cluster more. */
  #grownSize(): number {
    const { length } = this.#table.bytes
    if (length >= maxRefcountTableBytes) throw this.#full()
    return Math.min(maxRefcountTableBytes, alignUp(length * 1.5, this.#clusterSize))
  }

  #full() {
    return this.#faults.noSpace(
      `the refcount table has reached its limit of ${maxRefcountTableBytes} bytes`,
    )
  }

  async #read(index: number): Promise<Table> {
    const offset = this.blockOffset(index)
    if (offset + this.#clusterSize > alignUp(this.#file.size, this.#clusterSize)) {
      throw this.#faultAt(index, `points to ${hex(offset)}, behind the end of the file`)
    }
    const bytes = new Uint8Array(this.#clusterSize)
    await this.#file.at('refblock_load')
    await this.#file.read(offset, bytes, plainIo)
    return new Table(bytes, offset, this.changedBlocks, false)
  }

  #faultAt(index: number, what: string) {
    return this.#faults.corrupt(
      `refcount table entry ${index} ${what}`,
      this.#table.offset + index * entrySize,
    )
  }
}

/** Nothing of a table that is too large, which is met only where the image is checked. */
async function readRefcountTable(file: ImageFile, { current }: HeaderState): Promise<Uint8Array> {
  const length = current.refcountTableClusters * 2 ** current.clusterBits
  if (length > maxRefcountTableBytes) return new Uint8Array(0)
  const table = new Uint8Array(length)
  await file.at('reftable_load')
  await file.read(current.refcountTableOffset, table, plainIo)
  return table
}
