/**
 * Copies the clusters of one disk to another, each once: the heart of backup. Two kinds of callers
 * share it: the job, which works through the disk, and guest writes, which need the clusters they
 * are about to change copied first. Whoever comes first copies; the other waits for that range
 * only.
 */

import { Bitset } from '../bitmap/bitset.ts'
import { alignDown, alignUp } from '../bytes/range.ts'
import { isZero } from '../bytes/zero.ts'
import { type BlockLayer, type Io, plainZeroIo } from './layer.ts'
import { RangeLock } from './range-lock.ts'

export interface BlockCopyOptions {
  readonly source: BlockLayer
  /** At least as long as the source's part that is copied. */
  readonly target: BlockLayer
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

/** Buffers kept for the next copies. */
const spareBuffers = 16

/** Which side of a copy failed: the error policies differ. */
export type CopySide = 'source' | 'target'

export class CopyError extends Error {
  override readonly name = 'CopyError'
  readonly side: CopySide
  readonly offset: number

  constructor(side: CopySide, offset: number, cause: unknown) {
    super(cause instanceof Error ? cause.message : String(cause), { cause })
    this.side = side
    this.offset = offset
  }
}

export class BlockCopy {
  readonly clusterSize: number
  /** Bytes of the disk, as it was when the copy began. */
  readonly size: number
  /** Clusters still to be copied. */
  readonly todo: Bitset
  readonly #source: BlockLayer
  readonly #target: BlockLayer
  readonly #compress: boolean
  readonly #lock = new RangeLock()
  readonly #bufferLength: number
  readonly #spare: Buffer[] = []
  /** Called with the bytes that were dealt with. */
  onProgress: (bytes: number) => void = () => {}

  constructor(options: BlockCopyOptions) {
    this.#source = options.source
    this.#target = options.target
    this.#compress = options.compress ?? false
    this.clusterSize = options.clusterSize
    this.#bufferLength = Math.max(maxCopyLength, options.clusterSize)
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
      this.#eachRun(start, end, this.#bufferLength, (from, bytes) =>
        this.#copyRun(from, bytes, io),
      ),
    )
  }

  /** Marks clusters, of which the caller knows that they read as zeroes, as such in the target. */
  async copyZeroes(offset: number, length: number, io: Io): Promise<void> {
    const end = offset + length
    await this.#lock.during(offset, length, true, io.signal, () =>
      this.#eachRun(offset, end, Number.POSITIVE_INFINITY, async (from, bytes) => {
        await this.#storeZeroes(from, bytes, io)
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
    const buffer = this.#spare.pop() ?? Buffer.allocUnsafeSlow(this.#bufferLength)
    try {
      const data = buffer.subarray(0, length)
      await attempt('source', offset, () => this.#source.read(offset, data, io))
      await this.#storeClusters(offset, data, io)
      this.#done(offset, length)
    } finally {
      if (this.#spare.length < spareBuffers) this.#spare.push(buffer)
    }
  }

  /** Stores neighbouring clusters of one kind, zeroes or data, with one request each. */
  async #storeClusters(offset: number, data: Buffer, io: Io): Promise<void> {
    const { length } = data
    for (let at = 0; at < length; ) {
      const zero = isZero(this.#clusterOf(data, at))
      let end = at + this.clusterSize
      while (end < length && isZero(this.#clusterOf(data, end)) === zero) end += this.clusterSize
      const part = data.subarray(at, Math.min(end, length))
      if (zero) await this.#storeZeroes(offset + at, part.length, io)
      else await this.#store(offset + at, part, io)
      at = end
    }
  }

  #clusterOf(data: Uint8Array, at: number): Uint8Array {
    return data.subarray(at, at + this.clusterSize)
  }

  async #store(offset: number, data: Uint8Array, io: Io): Promise<void> {
    const writeIo = { ...plainZeroIo, ...io }
    await attempt('target', offset, async () => {
      const { compressed } = this.#target
      if (!this.#compress || !compressed) return await this.#target.write(offset, data, writeIo)
      for (let at = 0; at < data.length; at += compressed.unit) {
        const unit = data.subarray(at, at + compressed.unit)
        await compressed.write(offset + at, unit, writeIo)
      }
    })
  }

  async #storeZeroes(offset: number, length: number, io: Io): Promise<void> {
    const zeroIo = { ...plainZeroIo, ...io, mayUnmap: true }
    await attempt('target', offset, () => this.#target.writeZeroes(offset, length, zeroIo))
  }

  #done(offset: number, length: number): void {
    const first = offset / this.clusterSize
    this.todo.delete(first, first + Math.ceil(length / this.clusterSize))
    this.onProgress(length)
  }
}

async function attempt(
  side: CopySide,
  offset: number,
  work: () => void | Promise<void>,
): Promise<void> {
  try {
    await work()
  } catch (error) {
    throw new CopyError(side, offset, error)
  }
}
