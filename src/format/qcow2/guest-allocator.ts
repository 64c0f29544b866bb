/** Space for what a guest writes, in the order of its clusters: without a promise where the tables are in memory. */
import { ClusterAllocation } from './cluster-allocation.ts'
import { dataFileEnd } from './data-file.ts'
import { entryFault, writeSignal } from './entry-signals.ts'
import type { Qcow2Image } from './image.ts'
import type { HostRun } from './offsets.ts'
import { ownTable } from './own-table.ts'
import { Reach, type Reached } from './reach.ts'
import type { Table } from './table.ts'

export class GuestAllocator {
  readonly #image: Qcow2Image
  readonly #reach: Reach

  constructor(image: Qcow2Image) {
    this.#image = image
    this.#reach = new Reach(image.layout, (table, index, what, guest) => {
      throw writeSignal(image, table, index, guest) ?? entryFault(image, table, index, what)
    })
  }

  /** See `ClusterMap.allocate`. */
  take(offset: number, length: number): ClusterAllocation | Promise<ClusterAllocation> {
    const { l2Tables, layout, corruption, frees } = this.#image
    try {
      corruption.refuse()
      const l1Index = layout.l1Index(offset)
      const own = l2Tables.isOwn(l1Index) && !frees.many
      const table = own ? l2Tables.cached(l2Tables.offsetAt(l1Index)) : undefined
      if (!table) return corruption.during(() => this.#takeSlowly(l1Index, offset, length))
      this.#image.checkTable(table)
      table.pins++
      const allocation = this.#takeIn(table, l1Index, offset, length)
      return allocation instanceof Promise ? corruption.during(() => allocation) : allocation
    } catch (error) {
      return corruption.rethrow(error)
    }
  }

  async #takeSlowly(l1Index: number, offset: number, length: number): Promise<ClusterAllocation> {
    await this.#image.releaseMany()
    const table = await ownTable(this.#image, l1Index)
    return await this.#takeIn(table, l1Index, offset, length)
  }

  /** Space for the first clusters of a range. `table` is pinned for the allocation. */
  #takeIn(
    table: Table,
    l1Index: number,
    offset: number,
    length: number,
  ): ClusterAllocation | Promise<ClusterAllocation> {
    const { layout, space, guard } = this.#image
    const { clusterSize, coverage } = layout
    try {
      const reached = this.#reach.of(table, offset, length)
      const { index, count } = reached
      if (reached.kept !== undefined) {
        if (!layout.external) guard.check(reached.kept, count * clusterSize)
        return this.#allocation(table, l1Index, reached, { offset: reached.kept, count })
      }
      const taken = space.take(count, l1Index * coverage + index * clusterSize)
      if (!(taken instanceof Promise)) return this.#allocation(table, l1Index, reached, taken)
      return taken.then(
        (run) => this.#allocation(table, l1Index, reached, run),
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

  #allocation(table: Table, l1Index: number, reached: Reached, run: HostRun): ClusterAllocation {
    const { index, count, kept } = reached
    const { coverage, clusterSize } = this.#image.layout
    const first = l1Index * coverage + index * clusterSize
    const wanted = run.count === count ? reached.end : run.count * clusterSize
    const end = this.#image.dataFile ? Math.min(wanted, dataFileEnd(this.#image) - first) : wanted
    return new ClusterAllocation(this.#image, {
      table,
      index,
      run,
      kept: kept !== undefined,
      guest: { offset: first + reached.start, length: end - reached.start },
    })
  }
}
