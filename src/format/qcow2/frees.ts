/**
 * Clusters that the tables in memory no longer refer to, but those on disk may still. They lose
 * their reference, and can be used again, only after the tables are on stable storage: a crash
 * before would bring the old tables back, and they must find their clusters as they were.
 */
import type { HostOffset } from './offsets.ts'

/** Why clusters were freed: decides whether the space is given back to the file system. */
export type FreeReason = 'request' | 'snapshot' | 'other'

/** One reference less for each of some consecutive clusters. */
export interface FreedRun {
  readonly offset: HostOffset
  /** In clusters. */
  count: number
  readonly reason: FreeReason
}

/** Runs that may wait for the next flush before one is made for their sake. */
const maxPendingRuns = 16_384

export class PendingFrees {
  readonly #clusterSize: number
  #runs: FreedRun[] = []

  constructor(clusterSize: number) {
    this.#clusterSize = clusterSize
  }

  get length(): number {
    return this.#runs.length
  }

  /** Nobody has to flush: without somebody who asks this, those that wait would fill the memory. */
  get many(): boolean {
    return this.#runs.length > maxPendingRuns
  }

  add(offset: HostOffset, count: number, reason: FreeReason): void {
    const last = this.#runs.at(-1)
    if (last?.reason === reason && last.offset + last.count * this.#clusterSize === offset) {
      last.count += count
    } else {
      this.#runs.push({ offset, count, reason })
    }
  }

  /** All of them, for the caller to release after a flush or to give back. */
  take(): FreedRun[] {
    const runs = this.#runs
    this.#runs = []
    return runs
  }

  giveBack(runs: readonly FreedRun[]): void {
    this.#runs = [...runs, ...this.#runs]
  }
}
