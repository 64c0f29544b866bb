/**
 * Copies the clusters of one disk to a slow target, each once, while guests wait for a fast spill
 * area only ("fleecing"): what a guest is about to overwrite is kept there until the target has
 * it. A cluster is either still in the source as it was, or in the spill area, or in the target.
 *
 * Two locks. Who stores a cluster in the target holds it in `#storing`; who spills it, and who
 * reads it from the source, in `#source`, which is never held while the target is waited for. So
 * guests wait for the target only when the spill area is full and they are to be slowed down: then
 * they store their clusters in the target themselves, and cannot wait for anybody in vain.
 */
import { Bitset } from '../bitmap/bitset.ts'
import type { DirtyBitmap } from '../bitmap/dirty-bitmap.ts'
import { alignDown, alignUp, type ByteRange } from '../bytes/range.ts'
import { isZero } from '../bytes/zero.ts'
import { BlockError } from '../errors.ts'
import { type BlockCopyOptions, maxCopyLength } from './block-copy.ts'
import type { DiskCopy } from './disk-copy.ts'
import type { Io } from './layer.ts'
import { RangeLock } from './range-lock.ts'
import type { SpillArea } from './spill-area.ts'
import { CopyError, Transfer } from './transfer.ts'

/** What becomes of guest writes that find the spill area full: they wait, or the copy is given up. */
export type OnSpillFull = 'slow' | 'give-up'

export interface FleecedCopyOptions extends BlockCopyOptions {
  /** Of slots as long as a cluster. Stays the caller's. */
  readonly spill: SpillArea
  readonly onFull: OnSpillFull
}

/** Where a cluster of zeroes is kept: nowhere. */
const zeroSlot = -1

export class FleecedCopy implements DiskCopy {
  readonly clusterSize: number
  readonly size: number
  readonly todo: Bitset
  onProgress: (bytes: number) => void = () => {}
  onDismissed: (bytes: number) => void = (bytes) => this.onProgress(bytes)
  /** Called when there is something for `oldestSpilled`. */
  onSpilled: () => void = () => {}
  readonly #options: FleecedCopyOptions
  readonly #transfer: Transfer
  readonly #pieceLength: number
  /** Slot of each cluster that is spilled and not stored yet, the oldest first. */
  readonly #slots = new Map<number, number>()
  /** Clusters that `oldestSpilled` has told of. */
  readonly #told = new Set<number>()
  readonly #storing = new RangeLock()
  readonly #source = new RangeLock()

  constructor(options: FleecedCopyOptions) {
    const { clusterSize, source, spill } = options
    if (spill.slotSize !== clusterSize) throw new TypeError('a slot is as long as a cluster')
    this.#options = options
    this.clusterSize = clusterSize
    this.size = source.size
    this.todo = new Bitset(Math.ceil(this.size / clusterSize))
    this.#pieceLength = Math.max(maxCopyLength, clusterSize)
    const moment = { size: this.size, read: this.#readMoment.bind(this) }
    this.#transfer = new Transfer({ ...options, source: moment, maxLength: this.#pieceLength })
  }

  select(bitmap: DirtyBitmap): void {
    for (const { offset, length } of bitmap.runs()) {
      const behind = Math.ceil((offset + length) / this.clusterSize)
      this.todo.add(Math.floor(offset / this.clusterSize), behind)
    }
  }

  pending(offset: number, length: number): boolean {
    const [first, behind] = this.#clustersOf(offset, length)
    return this.#nextExposed(first, behind) < behind
  }

  /**
   * Spills what the range would lose. With no room left, stores the clusters in the target, or
   * throws `NO_SPACE`.
   */
  async preserve(offset: number, length: number, io: Io): Promise<void> {
    const [first, behind] = this.#clustersOf(offset, length)
    const { offset: start, length: bytes } = this.#bytesOf(first, behind)
    for (;;) {
      const full = await this.#source.during(start, bytes, true, io.signal, () =>
        this.#spill(first, behind, io),
      )
      if (!full) return
      if (this.#options.onFull === 'give-up') {
        throw new CopyError('target', full.offset, spillFull(full.cause))
      }
      // As without fleecing: what the target has need not be kept.
      await this.copy(full.offset, Math.min(start + bytes - full.offset, this.#pieceLength), io)
    }
  }

  async copy(offset: number, length: number, io: Io): Promise<void> {
    const [first, behind] = this.#clustersOf(offset, length)
    await this.#eachRun(first, behind, io, (from, to) => this.#store(from, to, io))
  }

  /** The caller's knowledge is of the source: what was spilled is copied from there, whatever it is. */
  async copyZeroes(offset: number, length: number, io: Io): Promise<void> {
    await this.#eachRun(...this.#clustersOf(offset, length), io, async (from, to) => {
      if (this.#slots.has(from)) return await this.#store(from, to, io)
      const range = this.#bytesOf(from, to)
      await this.#transfer.zero(range.offset, range.length, io)
      await this.#finish(from, to, this.onProgress, io)
    })
  }

  async dismiss(offset: number, length: number, io: Io): Promise<void> {
    await this.#eachRun(...this.#clustersOf(offset, length), io, async (from, to) => {
      if (this.#slots.has(from)) return await this.#store(from, to, io)
      await this.#finish(from, to, this.onDismissed, io)
    })
  }

  /**
   * The piece that was spilled first, and not told of before; to be copied before all others, so
   * that its room can be used again.
   */
  oldestSpilled(): ByteRange | undefined {
    for (const first of this.#slots.keys()) {
      if (this.#told.has(first)) continue
      const limit = first + this.#pieceLength / this.clusterSize
      let behind = first
      while (behind < limit && this.#slots.has(behind) && !this.#told.has(behind)) {
        this.#told.add(behind++)
      }
      return this.#bytesOf(first, behind)
    }
  }

  /** How full the spill area is: 0 to 1. */
  get fullness(): number {
    return this.#options.spill.fullness
  }

  async idle(): Promise<void> {
    await this.#storing.idle()
    await this.#source.idle()
  }

  /** Keeps clusters that are only in the source. Says where the room ended, if it did. */
  async #spill(
    first: number,
    behind: number,
    io: Io,
  ): Promise<{ readonly offset: number; readonly cause?: unknown } | undefined> {
    const step = this.#pieceLength / this.clusterSize
    for (let at = this.#nextExposed(first, behind); at < behind; ) {
      const end = this.#exposedEnd(at, Math.min(behind, at + step))
      const range = this.#bytesOf(at, end)
      const data = Buffer.allocUnsafeSlow(range.length)
      try {
        await this.#options.source.read(range.offset, data, io)
      } catch (error) {
        throw new CopyError('source', range.offset, error)
      }
      const full = await this.#keep(at, end, data, io)
      if (full) return full
      at = this.#nextExposed(end, behind)
    }
  }

  /** Writes clusters, of which `data` has the bytes, to slots. */
  async #keep(first: number, behind: number, data: Buffer, io: Io) {
    const { clusterSize } = this
    const bytesOf = (from: number, to: number) =>
      data.subarray((from - first) * clusterSize, (to - first) * clusterSize)
    for (let at = first; at < behind; ) {
      let end = at + 1
      if (isZero(bytesOf(at, end))) {
        await this.#kept(at, { first: zeroSlot, count: 1 }, io)
        at = end
        continue
      }
      while (end < behind && !isZero(bytesOf(end, end + 1))) end++
      const { offset } = this.#bytesOf(at, end)
      const slots = this.#options.spill.take(end - at)
      if (!slots) return { offset }
      end = at + slots.count
      try {
        await this.#options.spill.write(slots.first, bytesOf(at, end), io)
      } catch (error) {
        await this.#options.spill.free(slots, io)
        // The storage has less room than it was thought to have.
        if (error instanceof BlockError && error.code === 'NO_SPACE')
          return { offset, cause: error }
        throw new CopyError('target', offset, error)
      }
      await this.#kept(at, slots, io)
      at = end
    }
    return undefined
  }

  /** Remembers where clusters are, unless the target has got them meanwhile. */
  async #kept(cluster: number, { first, count }: { first: number; count: number }, io: Io) {
    for (let index = 0; index < count; index++) {
      const slot = first === zeroSlot ? zeroSlot : first + index
      if (this.todo.has(cluster + index)) this.#slots.set(cluster + index, slot)
      else if (slot !== zeroSlot) await this.#options.spill.free({ first: slot, count: 1 }, io)
    }
    this.onSpilled()
  }

  /** Works on what is left of the range, in runs of clusters that are spilled, or are not. */
  async #eachRun(
    first: number,
    behind: number,
    io: Io,
    work: (first: number, behind: number) => Promise<void>,
  ): Promise<void> {
    if (first === behind) return
    const { offset, length } = this.#bytesOf(first, behind)
    await this.#storing.during(offset, length, true, io.signal, async () => {
      for (let at = this.todo.next(first, behind); at < behind; ) {
        const end = this.#runEnd(at, this.todo.nextAbsent(at, behind))
        await work(at, end)
        at = this.todo.next(end, behind)
      }
    })
  }

  async #store(first: number, behind: number, io: Io): Promise<void> {
    const step = this.#pieceLength / this.clusterSize
    for (let at = first; at < behind; at += step) {
      const end = Math.min(behind, at + step)
      const { offset, length } = this.#bytesOf(at, end)
      await this.#transfer.copy(offset, length, io)
      await this.#finish(at, end, this.onProgress, io)
    }
  }

  /** The target has the clusters, or does not need them. */
  async #finish(first: number, behind: number, tell: (bytes: number) => void, io: Io) {
    this.todo.delete(first, behind)
    tell(this.#bytesOf(first, behind).length)
    if (this.#slots.size === 0) return
    const freed: number[] = []
    for (let cluster = first; cluster < behind; cluster++) {
      const slot = this.#slots.get(cluster)
      if (slot === undefined) continue
      this.#slots.delete(cluster)
      this.#told.delete(cluster)
      if (slot !== zeroSlot) freed.push(slot)
    }
    for (const slot of freed) await this.#options.spill.free({ first: slot, count: 1 }, io)
  }

  /** Reads the disk as it was; the range is held in `#storing`, so that nothing of it is freed. */
  async #readMoment(offset: number, target: Uint8Array, io: Io): Promise<void> {
    const [first, behind] = this.#clustersOf(offset, target.length)
    await this.#source.during(offset, target.length, false, io.signal, async () => {
      for (let at = first; at < behind; ) {
        const end = this.#runEnd(at, behind)
        const range = this.#bytesOf(at, end)
        const start = range.offset - offset
        const part = target.subarray(start, start + range.length)
        if (this.#slots.has(at)) await this.#readSpilled(at, part, io)
        else await this.#options.source.read(range.offset, part, io)
        at = end
      }
    })
  }

  async #readSpilled(first: number, target: Uint8Array, io: Io): Promise<void> {
    for (let at = 0; at < target.length; at += this.clusterSize) {
      const slot = this.#slots.get(first + at / this.clusterSize) ?? zeroSlot
      const part = target.subarray(at, at + this.clusterSize)
      if (slot === zeroSlot) part.fill(0)
      else await this.#options.spill.read(slot, part, io)
    }
  }

  /** The end of the run of clusters that are all spilled, or all not, as the first is. */
  #runEnd(first: number, behind: number): number {
    if (this.#slots.size === 0) return behind
    const spilled = this.#slots.has(first)
    let end = first + 1
    while (end < behind && this.#slots.has(end) === spilled) end++
    return end
  }

  /** The first cluster that a guest must not change yet. */
  #nextExposed(first: number, behind: number): number {
    let at = this.todo.next(first, behind)
    while (at < behind && this.#slots.has(at)) at = this.todo.next(at + 1, behind)
    return at
  }

  #exposedEnd(first: number, behind: number): number {
    return this.#runEnd(first, this.todo.nextAbsent(first, behind))
  }

  #clustersOf(offset: number, length: number): [first: number, behind: number] {
    const start = alignDown(offset, this.clusterSize)
    const end = alignUp(Math.min(offset + length, this.size), this.clusterSize)
    return [start / this.clusterSize, Math.max(start, end) / this.clusterSize]
  }

  #bytesOf(first: number, behind: number): ByteRange {
    const offset = first * this.clusterSize
    return { offset, length: Math.min(behind * this.clusterSize, this.size) - offset }
  }
}

function spillFull(cause: unknown): BlockError {
  return new BlockError(
    'NO_SPACE',
    'the spill area is full, and the backup was to be given up then',
    { errno: 'ENOSPC', cause },
  )
}
