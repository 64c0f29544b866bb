/**
 * Copies the clusters of one disk to another, each once: the heart of backup. Two kinds of callers
 * share it: the job, which works through the disk, and guest writes, which need the clusters they
 * are about to change copied first. Whoever comes first copies; the other waits for that range
 * only.
 */

import { Bitset } from '../bitmap/bitset.ts'
import { alignDown, alignUp } from '../bytes/range.ts'
import type { Io } from './layer.ts'
import { RangeLock } from './range-lock.ts'
import { Transfer, type TransferSource, type TransferTarget } from './transfer.ts'

export { CopyError } from './transfer.ts'

export interface BlockCopyOptions {
  readonly source: TransferSource
  /** At least as long as the source's part that is copied. */
  readonly target: TransferTarget
  /** Bytes; a power of two, at least the target's cluster size. */
  readonly clusterSize: number
  /** Store clusters compressed, by the target's `compressed` ability. */
  readonly compress?: boolean
}

/**
 * Longest piece that is copied at once. A guest write waits until the piece that holds its cluster
 * is stored, so longer ones cost latency: with 1 MiB the 99th percentile was five times as long.
 */
export const maxCopyLength = 256 * 1024

export class BlockCopy {
  readonly clusterSize: number
  /** Bytes of the disk, as it was when the copy began. */
  readonly size: number
  /** Clusters still to be copied. */
  readonly todo: Bitset
  readonly #transfer: Transfer
  readonly #lock = new RangeLock()
  readonly #pieceLength: number
  /** Called with the bytes that were dealt with. */
  onProgress: (bytes: number) => void = () => {}

  constructor(options: BlockCopyOptions) {
    this.clusterSize = options.clusterSize
    this.#pieceLength = Math.max(maxCopyLength, options.clusterSize)
    this.#transfer = new Transfer({ ...options, maxLength: this.#pieceLength })
    this.size = options.source.size
    this.todo = new Bitset(Math.ceil(this.size / this.clusterSize))
  }

  /** Whether any cluster that the range touches is still to be copied. */
  pending(offset: number, length: number): boolean {
    const first = Math.floor(offset / this.clusterSize)
    const last = Math.ceil(Math.min(offset + length, this.size) / this.clusterSize)
    return first < last && this.todo.any(first, last)
  }

  /**
   * Copies what is left of the clusters that the range touches, and waits for what others are
   * copying of them. Throws a `CopyError`; those clusters then stay to be copied.
   */
  async copy(offset: number, length: number, io: Io): Promise<void> {
    const start = alignDown(offset, this.clusterSize)
    const end = Math.min(this.size, alignUp(offset + length, this.clusterSize))
    if (end <= start) return
    await this.#lock.during(start, end - start, true, io.signal, () =>
      this.#eachRun(start, end, this.#pieceLength, (from, bytes) => this.#copyRun(from, bytes, io)),
    )
  }

  /** Marks clusters, of which the caller knows that they read as zeroes, as such in the target. */
  async copyZeroes(offset: number, length: number, io: Io): Promise<void> {
    const end = offset + length
    await this.#lock.during(offset, length, true, io.signal, () =>
      this.#eachRun(offset, end, Number.POSITIVE_INFINITY, async (from, bytes) => {
        await this.#transfer.zero(from, bytes, io)
        this.#done(from, bytes)
      }),
    )
  }

  /** Gives up on clusters that need not be copied, unless somebody has copied them already. */
  async dismiss(offset: number, length: number, io: Io): Promise<void> {
    const end = offset + length
    await this.#lock.during(offset, length, true, io.signal, () =>
      this.#eachRun(offset, end, Number.POSITIVE_INFINITY, async (from, bytes) => {
        this.#done(from, bytes)
      }),
    )
  }

  /** Settles when no copy is under way. */
  idle(): Promise<void> {
    return this.#lock.idle()
  }

  async #eachRun(
    start: number,
    end: number,
    step: number,
    work: (offset: number, length: number) => Promise<void>,
  ): Promise<void> {
    const endCluster = Math.ceil(end / this.clusterSize)
    const stepClusters = step / this.clusterSize
    let cluster = this.todo.next(Math.floor(start / this.clusterSize), endCluster)
    while (cluster < endCluster) {
      const limit = Math.min(endCluster, cluster + stepClusters)
      const behind = this.todo.nextAbsent(cluster, limit)
      const offset = cluster * this.clusterSize
      await work(offset, Math.min(behind * this.clusterSize, this.size) - offset)
      cluster = this.todo.next(behind, endCluster)
    }
  }

  async #copyRun(offset: number, length: number, io: Io): Promise<void> {
    await this.#transfer.copy(offset, length, io)
    this.#done(offset, length)
  }

  #done(offset: number, length: number): void {
    const first = offset / this.clusterSize
    this.todo.delete(first, first + Math.ceil(length / this.clusterSize))
    this.onProgress(length)
  }
}
