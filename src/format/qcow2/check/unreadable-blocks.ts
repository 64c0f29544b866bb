/**
 * Blocks of refcounts that are not aligned, or beyond what files can have. Where nothing is repaired, qemu-img says of each
 * of their clusters that there is no refcount; a repair writes them anew.
 */
import type { CheckRequest } from './check.ts'
import { maxMessages, type Report } from './report.ts'
import { clustersOf, type StoredCounts } from './stored-counts.ts'

export class UnreadableBlocks {
  readonly #request: CheckRequest
  readonly #report: Report
  readonly #stored: StoredCounts
  readonly #blocks: readonly number[]
  /** Of `#blocks`. */
  #told = 0
  #toldOffset = false

  constructor(request: CheckRequest, report: Report, stored: StoredCounts) {
    const { repair } = request
    this.#request = request
    this.#report = report
    this.#stored = stored
    this.#blocks = repair === 'none' || repair === 'leaks' ? [...stored.unreadable.keys()] : []
  }

  has(cluster: number): boolean {
    if (this.#blocks.length === 0) return false
    return this.#stored.unreadable.has(Math.floor(cluster / this.#stored.layout.entries))
  }

  /** Tells of the clusters that come before one. */
  tellBefore(cluster: number): void {
    const { entries } = this.#stored.layout
    const clusters = clustersOf(this.#request)
    for (; this.#told < this.#blocks.length; this.#told++) {
      const first = this.#blocks[this.#told] * entries
      if (first >= Math.min(cluster, clusters)) return
      this.#tellOffset(this.#blocks[this.#told])
      this.#tellClusters(first, Math.min(clusters, first + entries))
    }
  }

  /** Only of the first that is not aligned. */
  #tellOffset(index: number): void {
    const offset = this.#stored.unreadable.get(index)!
    if (this.#toldOffset || offset % BigInt(2 ** this.#request.header.clusterBits) === 0n) return
    this.#toldOffset = true
    const what = this.#request.repair === 'none' ? 'Image is corrupt' : 'Marking image as corrupt'
    const further = this.#request.repair === 'none' ? 'non-fatal corruption' : 'corruption'
    this.#report.say(
      `qcow2: ${what}: Refblock offset 0x${offset.toString(16)} unaligned (reftable index: ${index}); ` +
        `further ${further} events will be suppressed`,
    )
  }

  #tellClusters(first: number, end: number): void {
    this.#report.checkErrors += end - first
    // What is too much to be said is not counted one by one.
    for (let cluster = first; cluster < Math.min(end, first + maxMessages); cluster++) {
      this.#report.say(`Can't get refcount for cluster ${cluster}: Input/output error`)
    }
  }
}
