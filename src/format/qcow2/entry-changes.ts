/** What becomes of an L2 entry, in memory, when its cluster or a part of it is zeroed or discarded. */
import type { Qcow2Image } from './image.ts'
import {
  clusterOf,
  highOf,
  isCopied,
  isZero,
  type Kind,
  kind,
  lowOf,
  setEntry,
  setZeroFlag,
  setZeroPlain,
} from './l2-table.ts'
import type { HostOffset } from './offsets.ts'
import type { ReportFault } from './runs.ts'
import { allocatedOf, maskOf, setSubclusters, subclusterCount, zeroOf } from './subclusters.ts'
import type { Table } from './table.ts'

const allSubclusters = maskOf(0, subclusterCount)

export class EntryChanges {
  readonly #image: Qcow2Image
  readonly #fault: ReportFault

  constructor(image: Qcow2Image, fault: ReportFault) {
    this.#image = image
    this.#fault = fault
  }

  /**
   * The cluster reads as zeroes. Its host cluster stays, unless `mayUnmap` or somebody shares it;
   * one that only `discard-no-unref` keeps is returned.
   */
  zero(table: Table, index: number, mayUnmap: boolean): HostOffset | undefined {
    const entryKind = this.#checkedKind(table, index)
    const own = this.#ownCluster(table, index, entryKind)
    if (own !== undefined && (!mayUnmap || this.#image.keepsDiscarded)) {
      this.#markZero(table, index)
      return mayUnmap ? own : undefined
    }
    this.#dropToZero(table, index, entryKind)
    return undefined
  }

  /** As `zero`, for the subclusters in bytes `from` to `to` of the cluster. It is not compressed. */
  zeroPart(
    table: Table,
    index: number,
    from: number,
    to: number,
    mayUnmap: boolean,
  ): HostOffset | undefined {
    const { subclusterSize } = this.#image.layout
    const { view } = table
    this.#checkedKind(table, index)
    const zeroed = maskOf(from / subclusterSize, to / subclusterSize)
    const allocated = (allocatedOf(view, index) & ~zeroed) >>> 0
    const zero = (zeroOf(view, index) | zeroed) >>> 0
    if (mayUnmap && zero === allSubclusters) {
      return this.zero(table, index, true)
    }
    setSubclusters(view, index, allocated, zero)
    this.#touch(table, index)
    return undefined
  }

  /**
   * Lets go of the cluster, or returns it if `discard-no-unref` keeps it. `backed`: what it reads as
   * must not be the backing file's.
   */
  discard(table: Table, index: number, backed: boolean): HostOffset | undefined {
    const { layout } = this.#image
    if (layout.version >= 3) {
      const entryKind = this.#checkedKind(table, index)
      const untouched = entryKind === kind.unallocated && !backed
      return untouched ? undefined : this.zero(table, index, true)
    }
    if (this.#checkedKind(table, index) === kind.unallocated) return undefined
    this.#release(table, index)
    setEntry(table.view, index, 0, 0)
    this.#touch(table, index)
    return undefined
  }

  /** The host cluster of an entry that has one which nobody shares. */
  #ownCluster({ view }: Table, index: number, entryKind: Kind): HostOffset | undefined {
    const word = this.#image.layout.wordOf(index)
    const placed = entryKind === kind.data || entryKind === kind.zeroAllocated
    if (!placed || !isCopied(highOf(view, word))) return undefined
    return clusterOf(highOf(view, word), lowOf(view, word))
  }

  /** Has an entry read as zeroes and keep its own host cluster. */
  #markZero(table: Table, index: number): void {
    const { view } = table
    if (this.#image.layout.extended) {
      if (zeroOf(view, index) === allSubclusters) return
      setSubclusters(view, index, 0, allSubclusters)
    } else {
      if (isZero(lowOf(view, index))) return
      setZeroFlag(view, index)
    }
    this.#touch(table, index)
  }

  #dropToZero(table: Table, index: number, entryKind: Kind): void {
    const { view } = table
    if (this.#image.layout.extended) {
      if (entryKind === kind.unallocated && zeroOf(view, index) === allSubclusters) return
      this.#release(table, index)
      setEntry(view, this.#image.layout.wordOf(index), 0, 0)
      setSubclusters(view, index, 0, allSubclusters)
    } else {
      if (entryKind === kind.zeroPlain) return
      this.#release(table, index)
      setZeroPlain(view, index)
    }
    this.#touch(table, index)
  }

  #checkedKind(table: Table, index: number): Kind {
    const { layout } = this.#image
    const fault = layout.faultAt(table.view, index)
    if (fault !== undefined) this.#fault(table, index, fault)
    const word = layout.wordOf(index)
    return layout.kindOf(highOf(table.view, word), lowOf(table.view, word))
  }

  #release(table: Table, index: number): void {
    const word = this.#image.layout.wordOf(index)
    this.#image.releaseEntry(highOf(table.view, word), lowOf(table.view, word), 'request')
  }

  #touch(table: Table, index: number): void {
    const { entryBytes } = this.#image.layout
    table.touchRange(index * entryBytes, entryBytes)
  }
}
