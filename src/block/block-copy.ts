/**
 * Copies the clusters of one disk to another, each once: the heart of backup. Two kinds of callers
 * share it: the job, which works through the disk, and guest writes, which need the clusters they
 * are about to change copied first. Whoever comes first copies; the other waits for that range
 * only.
 */

import { Bitset } from '../bitmap/bitset.ts'
import type { DirtyBitmap } from '../bitmap/dirty-bitmap.ts'
import { alignDown, alignUp, MiB } from '../bytes/range.ts'
import { BlockError } from '../errors.ts'
import type { DiskCopy } from './disk-copy.ts'
import type { Completion, Io } from './layer.ts'
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

/** Longest piece that is copied at once, and that a guest's write may have to wait for. */
export const maxCopyLength = MiB

export class BlockCopy implements DiskCopy {
  readonly clusterSize: number
  /** Bytes of the disk, as it was when the copy began. */
  readonly size: number
  /** Clusters still to be copied. */
  readonly todo: Bitset
  /** Clusters that are not to be copied; what they held is not kept. */
  readonly dismissed: Bitset
  readonly #transfer: Transfer
  readonly #lock = new RangeLock()
  readonly #pieceLength: number
  /** Called with the bytes that were dealt with. */
  onProgress: (bytes: number) => void = () => {}
  /** Called with the bytes that were given up on. */
  onDismissed: (bytes: number) => void = (bytes) => this.onProgress(bytes)

  constructor(options: BlockCopyOptions) {
    this.clusterSize = options.clusterSize
    this.#pieceLength = Math.max(maxCopyLength, options.clusterSize)
    this.#transfer = new Transfer({ ...options, maxLength: this.#pieceLength })
    this.size = options.source.size
    this.todo = new Bitset(Math.ceil(this.size / this.clusterSize))
    this.dismissed = new Bitset(this.todo.capacity)
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

  preserve(offset: number, length: number, io: Io): Promise<void> {
    return this.copy(offset, length, io)
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

  /** Before anything is copied: the clusters that are dirty are to be, and only they are kept. */
  select(bitmap: DirtyBitmap): void {
    this.dismissed.add(0, this.dismissed.capacity)
    for (const { offset, length } of bitmap.runs()) {
      const first = Math.floor(offset / this.clusterSize)
      const behind = Math.ceil((offset + length) / this.clusterSize)
      this.todo.add(first, behind)
      this.dismissed.delete(first, behind)
    }
  }

  /** Gives up on clusters that need not be copied, unless somebody has copied them already. */
  async dismiss(offset: number, length: number, io: Io): Promise<void> {
    const end = offset + length
    await this.#lock.during(offset, length, true, io.signal, () =>
      this.#eachRun(offset, end, Number.POSITIVE_INFINITY, async (from, bytes) => {
        const first = from / this.clusterSize
        this.dismissed.add(first, first + Math.ceil(bytes / this.clusterSize))
        this.todo.delete(first, first + Math.ceil(bytes / this.clusterSize))
        this.onDismissed(bytes)
      }),
    )
  }

  /** Forgets whole clusters: they need not be copied any more, and `drop` may take their copies. */
  async forget(
    offset: number,
    length: number,
    io: Io,
    drop: (offset: number, length: number) => Completion,
  ): Promise<void> {
    const start = alignUp(offset, this.clusterSize)
    const end =
      offset + length >= this.size ? this.size : alignDown(offset + length, this.clusterSize)
    if (end <= start) return
    await this.#lock.during(start, end - start, true, io.signal, async () => {
      const [first, last] = [start / this.clusterSize, Math.ceil(end / this.clusterSize)]
      this.dismissed.add(first, last)
      this.todo.delete(first, last)
      await drop(start, end - start)
    })
  }

  /**
   * Runs `work` while clusters of the range are neither copied nor given up, with the first run of
   * one place: `copied` to the target or still only in the source, whose bytes stay as they are
   * until `work` has settled.
   */
  async whileFixed<T>(
    offset: number,
    length: number,
    io: Io,
    work: (length: number, copied: boolean) => Promise<T>,
  ): Promise<T> {
    return await this.#lock.during(offset, length, false, io.signal, () => {
      const first = Math.floor(offset / this.clusterSize)
      const last = Math.ceil((offset + length) / this.clusterSize)
      if (this.dismissed.has(first)) throw notKept(offset)
      const copied = !this.todo.has(first)
      const behind = copied ? this.todo.next(first, last) : this.todo.nextAbsent(first, last)
      const end = Math.min(behind, this.dismissed.next(first, last))
      return work(Math.min(length, end * this.clusterSize - offset), copied)
    })
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

function notKept(offset: number): BlockError {
  return new BlockError('PERMISSION', 'this part of the disk is not kept', {
    offset,
    errno: 'EACCES',
  })
}
