/**
 * How far the clusters of a disk go on alike: the same kind, and consecutive in the file where they
 * have a place there. `SubclusterRuns` does the same for extended entries.
 */

import {
  clusterOf,
  compressedRun,
  countRun,
  highOf,
  isCopied,
  type Kind,
  kind,
  lowOf,
} from './l2-table.ts'
import type { L2Tables } from './l2-tables.ts'
import type { HostOffset } from './offsets.ts'
import type { Table } from './table.ts'

/** Bytes of the disk from some offset on that have one status. */
export interface Run {
  /** Unallocated, zero or data: of the bytes, whatever the rest of their clusters is. */
  readonly kind: Kind
  readonly length: number
  /** Host cluster of the first byte; undefined where nothing is kept for it, or it is compressed. */
  readonly cluster: HostOffset | undefined
  /** The host clusters belong to this disk alone. */
  readonly copied: boolean
}

export interface Runs {
  /** The run at `offset`, whose cluster `table` describes: at most `length` long, maybe shorter. */
  find(table: Table, l1Index: number, offset: number, length: number): Run
  /** Bytes without an allocation from `offset` on, which has no L2 table. */
  withoutTable(l1Index: number, offset: number, length: number): number
}

/** A table entry that contradicts the format is reported through `fault`, which throws. */
export type ReportFault = (table: Table, index: number, what: string) => never

export class ClusterRuns implements Runs {
  readonly #l2Tables: L2Tables
  readonly #fault: ReportFault
  readonly #clusterSize: number
  readonly #entries: number

  constructor(l2Tables: L2Tables, fault: ReportFault) {
    this.#l2Tables = l2Tables
    this.#fault = fault
    this.#clusterSize = l2Tables.layout.clusterSize
    this.#entries = l2Tables.layout.entries
  }

  withoutTable(l1Index: number, offset: number, length: number): number {
    const left = this.#entries - this.#l2Tables.layout.l2Index(offset)
    return this.#bytes(offset, length, this.#extend(l1Index, left, this.#clusters(offset, length)))
  }

  find(table: Table, l1Index: number, offset: number, length: number): Run {
    const { layout } = this.#l2Tables
    const { view } = table
    const index = layout.l2Index(offset)
    const high = highOf(view, index)
    const low = lowOf(view, index)
    const fault = layout.faultOf(high, low)
    if (fault !== undefined) this.#fault(table, index, fault)

    const wanted = this.#clusters(offset, length)
    const here = Math.min(wanted, this.#entries - index)
    const entryKind = layout.kindOf(high, low)
    const copied = isCopied(high)
    if (entryKind === kind.compressed) {
      const bytes = this.#bytes(offset, length, compressedRun(view, index, here))
      return { kind: entryKind, length: bytes, cluster: undefined, copied }
    }
    const placed = entryKind === kind.data || entryKind === kind.zeroAllocated
    const step = placed ? this.#clusterSize : 0
    let count = countRun(view, index, here, high, low, step)
    if (count === this.#entries - index && count < wanted) {
      count = this.#extend(l1Index, count, wanted, high, low, step)
    }
    const cluster = placed ? clusterOf(high, low) : undefined
    return { kind: entryKind, length: this.#bytes(offset, length, count), cluster, copied }
  }

  /**
   * Follows a run of `count` entries, which has reached the end of its table, through the tables
   * behind it that are in memory, or missing while the run is of unallocated clusters.
   */
  #extend(l1Index: number, count: number, wanted: number, high = 0, low = 0, step = 0): number {
    let total = count
    for (let next = l1Index + 1; total < wanted; next++) {
      const here = Math.min(this.#entries, wanted - total)
      if (this.#l2Tables.isMissing(next)) {
        if (high !== 0 || low !== 0) break
        total += here
        continue
      }
      const view = this.#l2Tables.peek(next)?.view
      if (!view) break
      const sum = low + total * step
      const found = countRun(view, 0, here, high + Math.floor(sum / 2 ** 32), sum % 2 ** 32, step)
      total += found
      if (found < here) break
    }
    return Math.min(total, wanted)
  }

  /** Clusters that a range touches. */
  #clusters(offset: number, length: number): number {
    return Math.ceil(((offset % this.#clusterSize) + length) / this.#clusterSize)
  }

  /** Bytes of the first `count` clusters of a range that lie in it. */
  #bytes(offset: number, length: number, count: number): number {
    return Math.min(length, count * this.#clusterSize - (offset % this.#clusterSize))
  }
}
