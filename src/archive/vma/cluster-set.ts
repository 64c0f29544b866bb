/**
 * A set of cluster numbers that costs what was put in, not what a header claims: pages of 4096
 * bits come into being when touched and shrink to a mark once they are full. Devices are stored
 * nearly in order, so few pages are ever half full; a budget shared by all sets of an archive
 * bounds what a hostile one can make us take.
 */
import { alignDown } from '../../bytes/range.ts'
import { BlockError } from '../../errors.ts'

/** Clusters per page: 256 MiB of a disk, in 512 bytes. */
const pageClusters = 4096

/** Half-full pages of one archive: 256 MiB of memory, 128 TiB of disks written at random. */
export const maxOpenPages = 512 * 1024

export interface PageBudget {
  left: number
}

interface Page {
  readonly bits: Uint8Array
  count: number
}

export class ClusterSet {
  /** Number of clusters that can be in the set. */
  readonly capacity: number
  readonly #pages = new Map<number, Page | 'full'>()
  readonly #budget: PageBudget
  #size = 0

  constructor(capacity: number, budget: PageBudget) {
    this.capacity = capacity
    this.#budget = budget
  }

  get size(): number {
    return this.#size
  }

  get complete(): boolean {
    return this.#size === this.capacity
  }

  /** Adds a cluster below `capacity`; false when it was in the set before. */
  add(cluster: number): boolean {
    const bit = cluster % pageClusters
    const number = (cluster - bit) / pageClusters
    const page = this.#pages.get(number) ?? this.#open(number)
    if (page === 'full') return false
    const byte = Math.floor(bit / 8)
    const mask = 1 << (bit % 8)
    if ((page.bits[byte] & mask) !== 0) return false
    page.bits[byte] |= mask
    this.#size++
    if (++page.count === this.#pageLength(number)) this.#close(number)
    return true
  }

  has(cluster: number): boolean {
    const bit = cluster % pageClusters
    const page = this.#pages.get((cluster - bit) / pageClusters)
    if (page === undefined || page === 'full') return page === 'full'
    return (page.bits[Math.floor(bit / 8)] & (1 << (bit % 8))) !== 0
  }

  /** The lowest cluster that is missing, or undefined when none is. */
  firstMissing(): number | undefined {
    if (this.complete) return undefined
    for (let cluster = 0; cluster < this.capacity; ) {
      const page = this.#pages.get(alignDown(cluster, pageClusters) / pageClusters)
      if (page === undefined) return cluster
      if (page === 'full') cluster += pageClusters
      else if (this.has(cluster)) cluster++
      else return cluster
    }
    return undefined
  }

  #open(number: number): Page {
    if (this.#budget.left === 0) {
      throw new BlockError(
        'UNSUPPORTED',
        `the clusters are too scattered: more than ${maxOpenPages} regions are partly stored`,
      )
    }
    this.#budget.left--
    const page = { bits: new Uint8Array(pageClusters / 8), count: 0 }
    this.#pages.set(number, page)
    return page
  }

  #close(number: number): void {
    this.#pages.set(number, 'full')
    this.#budget.left++
  }

  #pageLength(number: number): number {
    return Math.min(pageClusters, this.capacity - number * pageClusters)
  }
}
