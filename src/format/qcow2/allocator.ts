/**
 * Finding free clusters, and giving clusters back. Counts are raised in memory at once, so two
 * requests never get the same cluster; when they reach the disk is up to the write-back.
 *
 * Single clusters (tables, small writes) take the first free one, so holes are filled; longer runs
 * are taken whole where they fit, so sequential writes stay contiguous in the file.
 */
import type { Completion } from '../../block/layer.ts'
import type { ByteRange } from '../../bytes/range.ts'
import { type Faults, hex } from './faults.ts'
import type { FreedRun, FreeReason, PendingFrees } from './frees.ts'
import type { ImageFile } from './image-file.ts'
import type { MetadataGuard } from './metadata-guard.ts'
import { type HostOffset, type HostRun, hostOffset } from './offsets.ts'
import type { Refcounts } from './refcounts.ts'
import type { Table } from './table.ts'

/** A search that cannot go on before a refcount block is in memory. */
interface MissingBlock {
  readonly missing: number
  /** The cluster to go on with. Beginning anew could go round in a small cache for ever. */
  readonly from: number
}

/**
 * A search that cannot go on before there is space for a new refcount block, or a larger table. They
 * are written later, when the guest's data may have filled the disk: it could not be flushed then.
 */
interface Unplaced {
  readonly unplaced: ByteRange
  readonly from: number
}

export class Allocator {
  readonly #refcounts: Refcounts
  readonly #frees: PendingFrees
  readonly #file: ImageFile
  readonly #metadata: MetadataGuard
  readonly #faults: Faults
  readonly #clusterSize: number
  /** No cluster below is free. */
  #firstFree = 0
  /** Where the search for longer runs goes on. */
  #nextRun = 0
  /** Where space was taken for blocks and tables that are about to be added. */
  readonly #placed = new Set<number>()

  constructor(
    refcounts: Refcounts,
    frees: PendingFrees,
    file: ImageFile,
    metadata: MetadataGuard,
    faults: Faults,
  ) {
    this.#refcounts = refcounts
    this.#frees = frees
    this.#file = file
    this.#metadata = metadata
    this.#faults = faults
    this.#clusterSize = file.clusterSize
  }

  /**
   * Up to `count` consecutive free clusters, with a refcount of one. Answers at once when the
   * refcount blocks on the way are in memory and the file is long enough.
   */
  take(count: number): HostRun | Promise<HostRun> {
    const found = this.#search(count)
    if ('from' in found) return this.#takeSlowly(count, found)
    const grown = this.#file.reserve(found.offset + found.count * this.#clusterSize)
    return grown instanceof Promise ? this.#afterGrowth(found, grown) : found
  }

  /** As `take`, but all of `count` in one run: for tables of several clusters. */
  async takeWhole(count: number): Promise<HostRun> {
    for (let start = this.#nextRun; ; ) {
      const run = await this.#takeRunFrom(start, count)
      if (run.count === count) return run
      start = Math.floor(run.offset / this.#clusterSize) + run.count
      await this.giveBack(run)
    }
  }

  /** Takes one certain cluster if it is free and its refcount block is in memory. */
  takeExactly(cluster: number): boolean {
    const block = this.#refcounts.cached(this.#refcounts.blockIndex(cluster))
    const end = (cluster + 1) * this.#clusterSize
    if (!block || end > this.#file.size) return false
    if (this.#refcounts.layout.get(block.view, cluster % this.#refcounts.layout.entries) !== 0) {
      return false
    }
    this.#guard(cluster, 1)
    this.#refcounts.set(block, cluster, 1)
    return true
  }

  /** One reference more to a cluster in use; false when its refcount can go no higher. */
  async share(offset: HostOffset): Promise<boolean> {
    const cluster = Math.floor(offset / this.#clusterSize)
    const block = await this.#refcounts.load(this.#refcounts.blockIndex(cluster))
    const { layout } = this.#refcounts
    block.unpin()
    const count = layout.get(block.view, cluster % layout.entries)
    if (count === 0 || count >= layout.max) return false
    this.#refcounts.set(block, cluster, count + 1)
    return true
  }

  /** Clusters that were taken and that nothing has referred to. */
  giveBack(run: HostRun): Completion {
    return this.lower({ ...run, reason: 'other' })
  }

  /** Clusters that the tables in memory no longer refer to; see `PendingFrees`. */
  free(offset: HostOffset, count: number, reason: FreeReason): void {
    this.#frees.add(offset, count, reason)
  }

  /**
   * Whether metadata lies there. Tables that move are guarded no more before their clusters are freed,
   * so what referred to this cluster was broken.
   */
  isMetadata(cluster: number): boolean {
    return this.#metadata.covers(cluster * this.#clusterSize, 1)
  }

  /**
   * Takes a reference off each cluster of a run, whose former references are gone for good. Metadata
   * keeps its last one.
   */
  async lower(run: FreedRun): Promise<void> {
    const first = Math.floor(run.offset / this.#clusterSize)
    for (let cluster = first; cluster < first + run.count; cluster++) {
      const block = this.#loadedBlock(cluster) ?? (await this.#loadBlock(cluster))
      const { layout } = this.#refcounts
      const count = block ? layout.get(block.view, cluster % layout.entries) : 0
      if (!block || count === 0 || count > layout.max) throw this.#wrongCount(cluster, count)
      if (count === 1 && this.isMetadata(cluster)) continue
      this.#refcounts.set(block, cluster, count - 1)
      if (count === 1) this.#noteFree(cluster)
    }
  }

  /** Starts from the beginning: the refcounts were changed by somebody else. */
  reset(): void {
    this.#firstFree = 0
    this.#nextRun = 0
    this.#placed.clear()
  }

  #noteFree(cluster: number): void {
    this.#firstFree = Math.min(this.#firstFree, cluster)
    this.#nextRun = Math.min(this.#nextRun, cluster)
  }

  #loadedBlock(cluster: number): Table | undefined {
    return this.#refcounts.cached(this.#refcounts.blockIndex(cluster))
  }

  /** The block that counts a cluster, or undefined where there is none. */
  async #loadBlock(cluster: number): Promise<Table | undefined> {
    const index = this.#refcounts.blockIndex(cluster)
    if (this.#refcounts.blockOffset(index) === 0) return undefined
    const block = await this.#refcounts.load(index, true)
    block.unpin()
    return block
  }

  async #takeSlowly(count: number, first: MissingBlock | Unplaced): Promise<HostRun> {
    for (let found: HostRun | MissingBlock | Unplaced = first; ; ) {
      if ('missing' in found) {
        const block = await this.#refcounts.load(found.missing)
        found = this.#searchWith(block, count, found.from)
      } else if ('unplaced' in found) {
        await this.#place(found.unplaced)
        found = this.#search(count, found.from)
      } else {
        await this.#reserve(found)
        return found
      }
    }
  }

  async #place(range: ByteRange): Promise<void> {
    await this.#file.reserve(range.offset + range.length)
    await this.#file.occupy(range)
    this.#placed.add(range.offset)
  }

  async #afterGrowth(run: HostRun, grown: Promise<void>): Promise<HostRun> {
    try {
      await grown
    } catch (error) {
      await this.giveBack(run)
      throw error
    }
    return run
  }

  async #reserve(run: HostRun): Promise<void> {
    const grown = this.#file.reserve(run.offset + run.count * this.#clusterSize)
    if (grown instanceof Promise) await this.#afterGrowth(run, grown)
  }

  #searchWith(pinned: Table, count: number, from: number): HostRun | MissingBlock | Unplaced {
    try {
      return this.#search(count, from)
    } finally {
      pinned.unpin()
    }
  }

  #search(count: number, from?: number): HostRun | MissingBlock | Unplaced {
    const { layout } = this.#refcounts
    if (count === 1) return this.#searchFrom(from ?? this.#firstFree, 1, true)
    return this.#searchFrom(from ?? this.#nextRun, Math.min(count, layout.entries / 2), false)
  }

  /** The first `count` free clusters in a row from `start` on, within one refcount block. */
  #searchFrom(start: number, count: number, single: boolean): HostRun | MissingBlock | Unplaced {
    const { layout } = this.#refcounts
    for (let cluster = start; ; ) {
      const index = this.#refcounts.blockIndex(cluster)
      const block = this.#refcounts.cached(index)
      if (!block) {
        if (index < this.#refcounts.blockLimit && this.#refcounts.blockOffset(index) !== 0) {
          return { missing: index, from: cluster }
        }
        const next = this.#addBlock(cluster)
        if (typeof next !== 'number') return next
        cluster = next
        continue
      }
      const blockStart = index * layout.entries
      const free = layout.findFree(block.view, cluster - blockStart, layout.entries)
      const end = layout.findUsed(block.view, free, Math.min(layout.entries, free + count))
      this.#noteUsed(cluster, blockStart + free)
      if (end - free >= count) return this.#claim(block, blockStart + free, count, single)
      cluster = blockStart + (free < layout.entries ? end : free)
    }
  }

  /** None of [`first`, `end`) is free. */
  #noteUsed(first: number, end: number): void {
    if (first <= this.#firstFree && this.#firstFree < end) this.#firstFree = end
  }

  #claim(block: Table, first: number, count: number, single: boolean): HostRun {
    this.#guard(first, count)
    for (let cluster = first; cluster < first + count; cluster++) {
      this.#refcounts.set(block, cluster, 1)
    }
    this.#noteUsed(first, first + count)
    if (!single) this.#nextRun = first + count
    return { offset: hostOffset(first * this.#clusterSize), count }
  }

  /** Has `cluster`, which no block counts yet, hold that block. Returns where to search on. */
  #addBlock(cluster: number): number | Unplaced {
    if (this.#refcounts.blockIndex(cluster) >= this.#refcounts.blockLimit) {
      const place = this.#refcounts.grownPlace()
      if (!this.#placed.delete(place.offset)) return { unplaced: place, from: cluster }
      const { offset, count } = this.#refcounts.growTable()
      this.#frees.add(offset, count, 'other')
      return cluster
    }
    this.#guard(cluster, 1)
    const place = { offset: cluster * this.#clusterSize, length: this.#clusterSize }
    if (!this.#placed.delete(place.offset)) return { unplaced: place, from: cluster }
    this.#refcounts.addBlock(cluster)
    this.#file.claim(place.offset, place.length)
    return cluster + 1
  }

  /** A run of at most `count` from `start` on, over several refcount blocks if need be. */
  async #takeRunFrom(start: number, count: number): Promise<HostRun> {
    const { layout } = this.#refcounts
    let first = start
    let taken = 0
    while (taken < count) {
      const cluster = first + taken
      const index = this.#refcounts.blockIndex(cluster)
      const known =
        index < this.#refcounts.blockLimit && this.#refcounts.blockOffset(index) !== 0
          ? await this.#refcounts.load(index)
          : undefined
      if (!known) {
        const next = this.#addBlock(cluster)
        if (typeof next !== 'number') {
          await this.#place(next.unplaced)
          continue
        }
        // A new block in the middle ends the run.
        if (taken > 0 && next > cluster) break
        first = next
        continue
      }
      known.unpin()
      if (layout.get(known.view, cluster % layout.entries) === 0) {
        this.#guard(cluster, 1)
        this.#refcounts.set(known, cluster, 1)
        taken++
      } else if (taken > 0) {
        break
      } else {
        first++
      }
    }
    const run = { offset: hostOffset(first * this.#clusterSize), count: taken }
    await this.#reserve(run)
    return run
  }

  /** A broken image may call the header or a table free; they are not handed out. */
  #guard(first: number, count: number): void {
    this.#metadata.check(first * this.#clusterSize, count * this.#clusterSize)
  }

  #wrongCount(cluster: number, count: number) {
    const offset = cluster * this.#clusterSize
    const what = count === 0 ? 'is 0 although it is in use' : 'is beyond 2^53'
    return this.#faults.corrupt(
      `the refcount of the cluster at ${hex(offset)} ${what}; check and repair the image`,
      offset,
    )
  }
}
