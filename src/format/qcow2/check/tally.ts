/**
 * The references that are counted, by ranges of the file: what lies behind its end, and what is
 * more than refcounts can say, is told instead.
 */
import { entrySize } from '../l2-table.ts'
import { Counts } from './counts.ts'
import type { Findings } from './report.ts'

/** From this on counts are not watched: an image would need as many references to one cluster. */
const unwatched = 65_535

export class Tally {
  readonly counts = new Counts()
  /**
   * Something that refers to clusters could not be read or counted. What seems to be a leak may
   * then be in use.
   */
  incomplete = false
  /** Clusters of the file, the last one cut off maybe. */
  clusters: number
  readonly clusterSize: number
  /** The most that a refcount can say, where more is told instead of counted. */
  readonly #max: number
  /**
   * Clusters of the header and of the active L1 table: what an entry says to be there is surely
   * not the guest's. The places of other tables may be what is wrong, and refcounts can be written
   * anew elsewhere.
   */
  readonly #fixed = new Counts()

  constructor(clusters: number, clusterSize: number, max: number) {
    this.clusters = clusters
    this.clusterSize = clusterSize
    this.#max = max
  }

  /** `l1Entries`: of the active L1 table. */
  fix(l1TableOffset: number, l1Entries: number): void {
    this.#fix(0, this.clusterSize)
    this.#fix(l1TableOffset, l1Entries * entrySize)
  }

  #fix(offset: number, length: number): void {
    if (length === 0) return
    const [first, end] = this.#clustersOf(offset, length)
    if (end > first) this.#fixed.addRange(first, end - first, 1)
  }

  /** Whether a range touches what is surely not the guest's. */
  isFixed(offset: number, length: number): boolean {
    const [first, end] = this.#clustersOf(offset, length)
    return !this.#fixed.areZero(first, end - first)
  }

  /** Whether any cluster of a range has more references than `times`. */
  isShared(offset: number, length: number, times: number): boolean {
    const [first, end] = this.#clustersOf(offset, length)
    for (let cluster = first; cluster < end; cluster++) {
      if (this.counts.get(cluster) > times) return true
    }
    return false
  }

  /** Those of a range that the file has. */
  #clustersOf(offset: number, length: number): [first: number, end: number] {
    const end = Math.min(this.clusters, Math.ceil((offset + length) / this.clusterSize))
    return [Math.floor(offset / this.clusterSize), end]
  }

  /**
   * Counts `times` references to each cluster that a range of the file touches. `exact`: the offset,
   * where it may be beyond what numbers can say.
   */
  region(
    offset: number,
    length: number,
    times: number,
    findings: Findings,
    exact: number | bigint = offset,
  ): void {
    if (length === 0) return
    const first = Math.floor(offset / this.clusterSize)
    const end = Math.ceil((offset + length) / this.clusterSize)
    if (end <= this.clusters) {
      this.count(first, end - first, times, findings)
      return
    }
    this.incomplete = true
    findings.corruptions++
    findings.say(
      'ERROR: counting reference for region exceeding the end of the file by one cluster or more: ' +
        `offset 0x${exact.toString(16)} size 0x${length.toString(16)}`,
    )
  }

  /** Counts references to consecutive clusters that the file has. */
  count(first: number, count: number, times: number, findings: Findings): void {
    if (this.#max >= unwatched) {
      this.counts.addRange(first, count, times)
      return
    }
    for (let cluster = first; cluster < first + count; cluster++) {
      const fitting = Math.min(times, this.#max - this.counts.get(cluster))
      if (fitting > 0) this.counts.add(cluster, fitting)
      if (fitting < times) this.#overflow(cluster, findings)
    }
  }

  #overflow(cluster: number, findings: Findings): void {
    // Something leads here that should lead elsewhere; what seems to leak may be what it meant.
    this.incomplete = true
    findings.corruptions++
    findings.say(`ERROR: overflow cluster offset=0x${(cluster * this.clusterSize).toString(16)}`)
    findings.say(
      'Use qemu-img amend to increase the refcount entry width or qemu-img convert to create a ' +
        'clean copy if the image cannot be opened for writing',
    )
  }
}
