/** The active L1 table, held in memory whole, and a cache of the L2 tables that it points to. */
import { plainIo } from '../../block/layer.ts'
import { alignUp } from '../../bytes/range.ts'
import type { BlockError } from '../../errors.ts'
import { type Faults, hex, hexOrZero } from './faults.ts'
import type { Header } from './header.ts'
import type { ImageFile } from './image-file.ts'
import {
  entrySize,
  highOf,
  isCopied,
  type L2Layout,
  l1Fault,
  lowOf,
  offsetOf,
  setCopied,
  setEntry,
} from './l2-table.ts'
import { maxL1Bytes } from './limits.ts'
import type { MetadataGuard } from './metadata-guard.ts'
import { type HostOffset, hostOffset } from './offsets.ts'
import { Table } from './table.ts'
import { TableCache } from './table-cache.ts'

/** Bytes that the L1 table is rounded up to in memory; the file has whole clusters for it. */
const sectorSize = 512

export class L2Tables {
  readonly layout: L2Layout
  readonly cache: TableCache
  /** L2 tables with changes. */
  readonly changed = new Set<Table>()
  readonly changedL1 = new Set<Table>()
  readonly #file: ImageFile
  readonly #header: Header
  readonly #faults: Faults
  readonly #guard: MetadataGuard
  #l1: Table
  /** Makes an entry known that leads to no cluster. Set once, by whoever knows how to. */
  unaligned: (message: string, at: number) => BlockError = (message, at) =>
    this.#faults.corrupt(message, at)
  /** Makes room in the cache by writing tables. Set once, by whoever knows how to. */
  makeRoom: () => Promise<void> = async () => {}

  private constructor(
    file: ImageFile,
    header: Header,
    layout: L2Layout,
    faults: Faults,
    guard: MetadataGuard,
    capacity: number,
    l1: Uint8Array,
  ) {
    this.#guard = guard
    this.#file = file
    this.#header = header
    this.#faults = faults
    this.layout = layout
    this.cache = new TableCache(capacity)
    this.#l1 = new Table(l1, hostOffset(header.l1TableOffset), this.changedL1, false)
  }

  /** Reads the L1 table, whose place and size were approved (`header-tables.ts`). */
  static async open(
    file: ImageFile,
    header: Header,
    layout: L2Layout,
    faults: Faults,
    guard: MetadataGuard,
    capacity: number,
  ): Promise<L2Tables> {
    return new L2Tables(file, header, layout, faults, guard, capacity, await readL1(file, header))
  }

  /** Forgets everything and reads the L1 table again: somebody else has changed the file. */
  async reload(): Promise<void> {
    const l1 = await readL1(this.#file, this.#header)
    this.changed.clear()
    this.changedL1.clear()
    this.cache.clear()
    this.#l1 = new Table(l1, hostOffset(this.#header.l1TableOffset), this.changedL1, false)
  }

  get l1(): Table {
    return this.#l1
  }

  /** Entries that there is memory for: those of the file's table, rounded up. */
  get #entries(): number {
    return this.#l1.bytes.length / entrySize
  }

  /** Where the L2 table of an L1 entry, also of one behind the end, lies; 0 where there is none. */
  offsetAt(l1Index: number): HostOffset {
    if (l1Index >= this.#entries) return hostOffset(0)
    const high = highOf(this.#l1.view, l1Index)
    const low = lowOf(this.#l1.view, l1Index)
    if (high === 0 && low === 0) return hostOffset(0)
    const fault = l1Fault(high, low, this.layout.clusterSize)
    if (fault === undefined) return offsetOf(high, low)
    const offset = offsetOf(high, low - (low % 512))
    if (offset % this.layout.clusterSize === 0) throw this.#faultAt(l1Index, fault)
    throw this.unaligned(
      `L2 table offset ${hex(offset)} unaligned (L1 index: ${hexOrZero(l1Index)})`,
      this.#l1.offset + l1Index * entrySize,
    )
  }

  /** Whether the L2 table belongs to the active disk alone. */
  isOwn(l1Index: number): boolean {
    return l1Index < this.#entries && isCopied(highOf(this.#l1.view, l1Index))
  }

  /** Whether an L1 entry, also one behind the end, has no L2 table. */
  isMissing(l1Index: number): boolean {
    const { view } = this.#l1
    if (l1Index >= this.#entries) return true
    return lowOf(view, l1Index) === 0 && highOf(view, l1Index) === 0
  }

  /** The L2 table of an L1 entry if it is in memory; undefined also where the entry is broken. */
  peek(l1Index: number): Table | undefined {
    if (l1Index >= this.#entries) return undefined
    const high = highOf(this.#l1.view, l1Index)
    const low = lowOf(this.#l1.view, l1Index)
    if (l1Fault(high, low, this.layout.clusterSize) !== undefined) return undefined
    return this.cached(offsetOf(high, low))
  }

  /** An L2 table in memory. */
  cached(offset: HostOffset): Table | undefined {
    return this.cache.get(offset / this.layout.clusterSize)
  }

  /** The L2 table of an L1 entry that has one, pinned. */
  async load(l1Index: number): Promise<Table> {
    const offset = this.offsetAt(l1Index)
    this.#checkPlace(l1Index, offset)
    if (!this.cache.hasRoom()) await this.makeRoom()
    return await this.cache.load(offset / this.layout.clusterSize, () => this.#read(offset))
  }

  /** Puts a table of `bytes` into an L1 entry. Its cluster was just allocated. */
  adopt(l1Index: number, offset: HostOffset, bytes: Uint8Array): Table {
    this.#guard.checkTable('active-l1', this.#l1.offset, this.#l1.bytes.length)
    this.#guard.add('active-l2', offset, bytes.length)
    const table = new Table(bytes, offset, this.changed, true)
    this.cache.hasRoom()
    this.cache.add(offset / this.layout.clusterSize, table)
    setCopied(this.#l1.view, l1Index, offset)
    this.#l1.touch(l1Index * entrySize)
    return table
  }

  /** Takes the L2 table out of an L1 entry and the cache. */
  drop(l1Index: number): void {
    const key = this.offsetAt(l1Index) / this.layout.clusterSize
    // A table that snapshots share stays as it is; it just is no longer ours.
    if (this.isOwn(l1Index)) {
      this.cache.get(key)?.retire()
      this.cache.drop(key)
    }
    this.#guard.remove('active-l2', key * this.layout.clusterSize, this.layout.clusterSize)
    setEntry(this.#l1.view, l1Index, 0, 0)
    this.#l1.touch(l1Index * entrySize)
  }

  /** Moves the L1 table to a larger place, which was just allocated. Returns the old table. */
  moveL1(offset: HostOffset, entries: number): Table {
    const old = this.#l1
    const bytes = new Uint8Array(alignUp(entries * entrySize, sectorSize))
    bytes.set(old.bytes.subarray(0, Math.min(old.bytes.length, bytes.length)))
    this.#l1 = new Table(bytes, offset, this.changedL1, true)
    this.#guard.remove('active-l1', old.offset, old.bytes.length)
    this.#guard.add('active-l1', offset, bytes.length)
    old.retire()
    return old
  }

  async #read(offset: HostOffset): Promise<Table> {
    const bytes = new Uint8Array(this.layout.clusterSize)
    await this.#file.at('l2_load')
    await this.#file.read(offset, bytes, plainIo)
    return new Table(bytes, offset, this.changed, false)
  }

  #checkPlace(l1Index: number, offset: HostOffset): void {
    const { clusterSize } = this.layout
    if (offset + clusterSize > alignUp(this.#file.size, clusterSize)) {
      throw this.#faultAt(l1Index, `points to ${hex(offset)}, behind the end of the file`)
    }
  }

  #faultAt(l1Index: number, what: string) {
    return this.#faults.corrupt(`L1 entry ${l1Index} ${what}`, this.#l1.offset + l1Index * 8)
  }
}

/** Nothing of a table that is too large, which is met only where the image is checked. */
async function readL1(file: ImageFile, header: Header): Promise<Uint8Array> {
  if (header.l1Size * entrySize > maxL1Bytes) return new Uint8Array(0)
  const used = new Uint8Array(header.l1Size * entrySize)
  await file.read(header.l1TableOffset, used, plainIo)
  const l1 = new Uint8Array(alignUp(used.length, sectorSize))
  l1.set(used)
  return l1
}
