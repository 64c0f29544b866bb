/**
 * Which entries a write can be given space for in one go, and which of their bytes have to be
 * written with it: whole clusters; or, where there are subclusters, those that the write touches,
 * and those that lie in a cluster which the disk is about to leave.
 */
import { clusterOf, countRun, highOf, isCopied, kind, type L2Layout, lowOf } from './l2-table.ts'
import type { HostOffset } from './offsets.ts'
import { allocatedOf, highestBit, lowestBit } from './subclusters.ts'
import type { Table } from './table.ts'

export interface Reached {
  /** The first entry. */
  readonly index: number
  readonly count: number
  /** The clusters that the entries have and keep; undefined where they need new ones. */
  readonly kept: HostOffset | undefined
  /** What becomes data, in bytes from the beginning of the first entry's cluster. */
  readonly start: number
  readonly end: number
}

/** Throws; `guest`: what the write begins with, as far as that cluster is concerned. */
export type ReportWriteFault = (table: Table, index: number, what: string, guest: number) => never

export class Reach {
  readonly #layout: L2Layout
  readonly #fault: ReportWriteFault

  constructor(layout: L2Layout, fault: ReportWriteFault) {
    this.#layout = layout
    this.#fault = fault
  }

  /** For a write to [`offset`, `offset + length`), as far as `table` describes it. */
  of(table: Table, offset: number, length: number): Reached {
    const { entries, clusterSize, subclusterSize, extended } = this.#layout
    const index = this.#layout.l2Index(offset)
    const within = offset % clusterSize
    const limit = Math.min(entries - index, Math.ceil((within + length) / clusterSize))
    const kept = this.#keptAt(table, index, offset)
    const count =
      kept === undefined
        ? this.#needed(table, index, limit, offset - within)
        : this.#kept(table, index, limit)
    const all = count * clusterSize
    if (!extended) return { index, count, kept, start: 0, end: all }
    const start = within - (within % subclusterSize)
    const end = Math.min(all, Math.ceil((within + length) / subclusterSize) * subclusterSize)
    if (kept !== undefined) return { index, count, kept, start, end }
    const last = (count - 1) * clusterSize
    return {
      index,
      count,
      kept,
      start: Math.min(start, this.#dataStart(table.view, index)),
      end: Math.max(end, last + this.#dataEnd(table.view, index + count - 1)),
    }
  }

  /** The host cluster that an entry keeps for being written. */
  #keptAt(table: Table, index: number, guest: number): HostOffset | undefined {
    const { view } = table
    const fault = this.#layout.faultAt(view, index)
    if (fault !== undefined) this.#fault(table, index, fault, guest)
    return this.#isKept(view, index) ? this.#clusterAt(view, index) : undefined
  }

  /** Entries from `index` on whose own host clusters follow each other. */
  #kept({ view }: Table, index: number, limit: number): number {
    const { clusterSize, extended } = this.#layout
    if (!extended) {
      return countRun(view, index, limit, highOf(view, index), lowOf(view, index), clusterSize)
    }
    const first = this.#clusterAt(view, index)
    let count = 1
    while (
      count < limit &&
      this.#layout.faultAt(view, index + count) === undefined &&
      this.#isKept(view, index + count) &&
      this.#clusterAt(view, index + count) === first + count * clusterSize
    ) {
      count++
    }
    return count
  }

  /** Entries from `index` on that need new host clusters, at least one. */
  #needed(table: Table, index: number, limit: number, start: number): number {
    const { clusterSize } = this.#layout
    const guest = (count: number) => start + count * clusterSize
    let count = 1
    while (count < limit && this.#keptAt(table, index + count, guest(count)) === undefined) count++
    return count
  }

  #isKept(view: DataView, index: number): boolean {
    const word = this.#layout.wordOf(index)
    const high = highOf(view, word)
    const entryKind = this.#layout.kindOf(high, lowOf(view, word))
    return isCopied(high) && (entryKind === kind.zeroAllocated || entryKind === kind.data)
  }

  #clusterAt(view: DataView, index: number): HostOffset {
    const word = this.#layout.wordOf(index)
    return clusterOf(highOf(view, word), lowOf(view, word))
  }

  /** First byte of a cluster that only its present host cluster has. */
  #dataStart(view: DataView, index: number): number {
    if (this.#isCompressed(view, index)) return 0
    return lowestBit(allocatedOf(view, index)) * this.#layout.subclusterSize
  }

  /** First byte behind everything that only the cluster's present host cluster has. */
  #dataEnd(view: DataView, index: number): number {
    if (this.#isCompressed(view, index)) return this.#layout.clusterSize
    return highestBit(allocatedOf(view, index)) * this.#layout.subclusterSize
  }

  #isCompressed(view: DataView, index: number): boolean {
    const word = this.#layout.wordOf(index)
    return this.#layout.kindOf(highOf(view, word), lowOf(view, word)) === kind.compressed
  }
}
