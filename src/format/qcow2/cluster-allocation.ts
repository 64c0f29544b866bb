/** Host clusters for some entries of an L2 table, which do not point at them before `link`. */
import type { Allocation } from '../../block/cluster-map.ts'
import type { Completion, HostRange } from '../../block/layer.ts'
import type { ByteRange } from '../../bytes/range.ts'
import type { Qcow2Image } from './image.ts'
import { clusterOf, entrySize, highOf, lowOf, setCopied } from './l2-table.ts'
import { type HostRun, hostOffset } from './offsets.ts'
import type { Table } from './table.ts'

export class ClusterAllocation implements Allocation {
  readonly guest: ByteRange
  readonly host: HostRange
  readonly zeroed: boolean
  readonly #image: Qcow2Image
  readonly #table: Table
  readonly #index: number
  readonly #run: HostRun
  /** The entries have these very clusters already. */
  readonly #reused: boolean

  private constructor(
    image: Qcow2Image,
    table: Table,
    index: number,
    run: HostRun,
    guestStart: number,
    reused: boolean,
  ) {
    const length = run.count * image.layout.clusterSize
    this.#image = image
    this.#table = table
    this.#index = index
    this.#run = run
    this.#reused = reused
    this.zeroed = image.file.claim(run.offset, length)
    this.guest = { offset: guestStart, length }
    this.host = { layer: image.file.layer, offset: run.offset, length, writable: true }
  }

  /** Newly taken clusters. The table stays pinned until the allocation is linked or abandoned. */
  static of(image: Qcow2Image, table: Table, index: number, run: HostRun, guestStart: number) {
    return new ClusterAllocation(image, table, index, run, guestStart, false)
  }

  /** Clusters that the entries kept while they read as zeroes. */
  static reuse(image: Qcow2Image, table: Table, index: number, count: number, guestStart: number) {
    const offset = clusterOf(highOf(table.view, index), lowOf(table.view, index))
    return new ClusterAllocation(image, table, index, { offset, count }, guestStart, true)
  }

  link(): Completion {
    const { view } = this.#table
    const { clusterSize } = this.#image.layout
    for (let at = 0; at < this.#run.count; at++) {
      const index = this.#index + at
      if (!this.#reused) this.#image.releaseEntry(highOf(view, index), lowOf(view, index), 'other')
      setCopied(view, index, hostOffset(this.#run.offset + at * clusterSize))
    }
    this.#table.touchRange(this.#index * entrySize, this.#run.count * entrySize)
    this.#table.unpin()
  }

  abandon(): Completion {
    this.#table.unpin()
    if (!this.#reused) return this.#image.allocator.giveBack(this.#run)
  }
}
