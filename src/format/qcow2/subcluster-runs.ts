/** How far subclusters go on alike, within a cluster and over the clusters behind it. */
import { clusterOf, highOf, isCopied, type Kind, kind, lowOf } from './l2-table.ts'
import type { L2Tables } from './l2-tables.ts'
import type { HostOffset } from './offsets.ts'
import type { ReportFault, Run, Runs } from './runs.ts'
import { allocatedOf, sameStatus, subclusterCount, zeroOf } from './subclusters.ts'
import type { Table } from './table.ts'

/** Subclusters of one cluster, from one of them on, that have the same status. */
interface Stretch {
  readonly kind: Kind
  readonly count: number
  readonly cluster: HostOffset | undefined
  readonly copied: boolean
}

export class SubclusterRuns implements Runs {
  readonly #l2Tables: L2Tables
  readonly #fault: ReportFault

  constructor(l2Tables: L2Tables, fault: ReportFault) {
    this.#l2Tables = l2Tables
    this.#fault = fault
  }

  withoutTable(l1Index: number, offset: number, length: number): number {
    const nothing = { kind: kind.unallocated, count: 0, cluster: undefined, copied: false }
    const { layout } = this.#l2Tables
    const rest = (l1Index + 1) * layout.coverage - offset
    return this.#follow(nothing, l1Index + 1, 0, rest, length)
  }

  find(table: Table, l1Index: number, offset: number, length: number): Run {
    const { layout } = this.#l2Tables
    const index = layout.l2Index(offset)
    const fault = layout.faultAt(table.view, index)
    if (fault !== undefined) this.#fault(table, index, fault)
    const within = offset % layout.clusterSize
    const subcluster = Math.floor(within / layout.subclusterSize)
    const first = this.#stretchAt(table.view, index, subcluster)
    const inside = (subcluster + first.count) * layout.subclusterSize - within
    const reachesEnd = subcluster + first.count === subclusterCount
    const bytes = reachesEnd ? this.#follow(first, l1Index, index + 1, inside, length) : inside
    return { ...first, length: Math.min(length, bytes) }
  }

  /** Goes on with a run of `bytes` at an entry that it has reached. Returns how long it becomes. */
  #follow(run: Stretch, l1Index: number, index: number, bytes: number, wanted: number): number {
    const { layout } = this.#l2Tables
    let total = bytes
    let next = l1Index + Math.floor(index / layout.entries)
    let at = index % layout.entries
    let cluster = run.cluster
    for (; total < wanted; next++, at = 0) {
      if (this.#l2Tables.isMissing(next)) {
        if (run.kind !== kind.unallocated || cluster !== undefined) break
        total += layout.coverage
        continue
      }
      const view = this.#l2Tables.peek(next)?.view
      if (!view) break
      for (; at < layout.entries && total < wanted; at++) {
        if (cluster !== undefined) cluster = (cluster + layout.clusterSize) as HostOffset
        if (layout.faultAt(view, at) !== undefined) return total
        const more = this.#stretchAt(view, at, 0)
        if (more.kind !== run.kind || more.cluster !== cluster || more.copied !== run.copied) {
          return total
        }
        total += more.count * layout.subclusterSize
        if (more.count < subclusterCount) return total
      }
    }
    return total
  }

  #stretchAt(view: DataView, index: number, subcluster: number): Stretch {
    const { layout } = this.#l2Tables
    const word = layout.wordOf(index)
    const high = highOf(view, word)
    const low = lowOf(view, word)
    const copied = isCopied(high)
    const entryKind = layout.kindOf(high, low)
    if (entryKind === kind.compressed) {
      const count = subclusterCount - subcluster
      return { kind: entryKind, count, cluster: undefined, copied }
    }
    const allocated = allocatedOf(view, index)
    const zero = zeroOf(view, index)
    const count = sameStatus(allocated, zero, subcluster)
    const cluster = entryKind === kind.data ? clusterOf(high, low) : undefined
    const bit = 2 ** subcluster
    if ((allocated & bit) !== 0) return { kind: kind.data, count, cluster, copied }
    if ((zero & bit) === 0) return { kind: kind.unallocated, count, cluster, copied }
    const zeroKind = cluster === undefined ? kind.zeroPlain : kind.zeroAllocated
    return { kind: zeroKind, count, cluster, copied }
  }
}
