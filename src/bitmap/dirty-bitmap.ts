/**
 * Which parts of a disk have changed since some moment, a bit for each `granularity` bytes. Who may
 * change a bitmap is decided by its states, which are those of QEMU's bitmaps:
 *
 * - _enabled_: changes of the disk are recorded.
 * - _busy_: an operation works with it, so that nobody else may.
 * - _frozen_: a backup copies what it says. What changes meanwhile goes to a successor, which
 *   replaces the bitmap when the backup succeeds and is merged into it when it fails.
 * - _inconsistent_: was in use when its image was last closed; can only be removed.
 */
import { type ByteRange, GiB, isPowerOfTwo } from '../bytes/range.ts'
import { BlockError, invalid } from '../errors.ts'
import { Bitset } from './bitset.ts'

export const minGranularity = 512
export const maxGranularity = 2 * GiB

/** Most bits of one bitmap: 128 TiB at the smallest granularity, 16 PiB at the usual 64 KiB. */
export const maxBits = 2 ** 38

/** Told of every change of a node's data. */
export interface DirtyTracker {
  mark(offset: number, length: number): void
  /** The disk has another size now. */
  resize?(size: number): void
}

export interface DirtyBitmapSettings {
  /** Empty for the bitmaps of jobs. */
  readonly name?: string
  /** Bytes that a bit stands for; a power of two from 512 to 2 GiB. */
  readonly granularity: number
  /** Bytes of the disk. */
  readonly size: number
  /** True unless given. */
  readonly enabled?: boolean
  readonly persistent?: boolean
  readonly inconsistent?: boolean
}

export class DirtyBitmap implements DirtyTracker {
  readonly name: string
  readonly granularity: number
  /** Was in use when the image was closed: what it says cannot be relied on. */
  readonly inconsistent: boolean
  /** Whether changes are recorded. */
  enabled: boolean
  /** Whether it is kept in the image. */
  persistent: boolean
  /** Loaded from an image that is open for reading only. */
  readOnly = false
  /** What works with the bitmap, if anything does, as messages name it. */
  busy: string | undefined
  #size: number
  #bits: Bitset
  /** While frozen, where changes go. */
  #successor: Bitset | undefined

  constructor(settings: DirtyBitmapSettings) {
    checkGranularity(settings.granularity)
    this.name = settings.name ?? ''
    this.granularity = settings.granularity
    this.enabled = settings.enabled ?? true
    this.persistent = settings.persistent ?? false
    this.inconsistent = settings.inconsistent ?? false
    this.#size = settings.size
    this.#bits = new Bitset(bitsOf(settings.size, settings.granularity))
  }

  /** Bytes of the disk. */
  get size(): number {
    return this.#size
  }

  /** Bytes that are dirty, the last granule of the disk counting whole, as QEMU reports it. */
  get count(): number {
    return this.#bits.size * this.granularity
  }

  get frozen(): boolean {
    return this.#successor !== undefined
  }

  /** Records a change of the disk, while enabled. Ranges are rounded out, and cut at the end. */
  mark(offset: number, length: number): void {
    if (!this.enabled || length === 0) return
    addBytes(this.#successor ?? this.#bits, this.granularity, offset, length)
  }

  /** Makes a range dirty, whether changes are recorded or not. */
  add(offset: number, length: number): void {
    if (length > 0) addBytes(this.#bits, this.granularity, offset, length)
  }

  /** Makes clean what lies in a range whole; all without one. */
  clear(offset = 0, length: number = this.#size - offset): void {
    const end = offset + length
    const last = end >= this.#size ? this.#bits.capacity : Math.floor(end / this.granularity)
    const first = Math.ceil(offset / this.granularity)
    if (first < last) this.#bits.delete(first, last)
  }

  has(offset: number): boolean {
    return this.#bits.has(Math.floor(offset / this.granularity))
  }

  /** The first dirty run at or behind `offset` and before `limit`, cut to them; or undefined. */
  nextDirty(offset: number, limit: number = this.#size): ByteRange | undefined {
    const end = Math.min(limit, this.#size)
    if (offset >= end) return undefined
    const endBit = Math.ceil(end / this.granularity)
    const first = this.#bits.next(Math.floor(offset / this.granularity), endBit)
    if (first >= endBit) return undefined
    const last = this.#bits.nextAbsent(first, endBit)
    const start = Math.max(offset, first * this.granularity)
    return { offset: start, length: Math.min(end, last * this.granularity) - start }
  }

  /** The first byte at or behind `offset` and before `limit` that is clean; or `limit`. */
  nextClean(offset: number, limit: number = this.#size): number {
    const end = Math.min(limit, this.#size)
    if (offset >= end) return end
    const endBit = Math.ceil(end / this.granularity)
    const found = this.#bits.nextAbsent(Math.floor(offset / this.granularity), endBit)
    return Math.min(end, Math.max(offset, found * this.granularity))
  }

  /** All dirty runs in order. The bitmap may change between two of them. */
  *runs(): Generator<ByteRange> {
    for (let run = this.nextDirty(0); run; run = this.nextDirty(run.offset + run.length)) yield run
  }

  /** Makes dirty whatever is dirty in `source`, of any granularity. Sizes must be the same. */
  merge(source: DirtyBitmap): void {
    if (source.#size !== this.#size) {
      throw invalid('Bitmaps are of different sizes and cannot be merged')
    }
    for (const { offset, length } of source.runs()) this.add(offset, length)
  }

  /** A copy of the bits, for `restore` to come back to. */
  save(): Bitset {
    return this.#bits.clone()
  }

  restore(saved: Bitset): void {
    this.#bits = saved.capacity === this.#bits.capacity ? saved : saved.resized(this.#bits.capacity)
  }

  /** Makes everything clean and returns what was dirty, at once; `restore` undoes it. */
  take(): Bitset {
    const taken = this.#bits
    this.#bits = new Bitset(taken.capacity)
    return taken
  }

  /** Follows the disk: what is cut off is forgotten, new space is clean. */
  resize(size: number): void {
    const capacity = bitsOf(size, this.granularity)
    this.#size = size
    if (capacity === this.#bits.capacity) return
    this.#bits = this.#bits.resized(capacity)
    this.#successor = this.#successor?.resized(capacity)
  }

  /** Lets changes go to a successor from now on, so that what is dirty at this moment stays. */
  freeze(busy: string): void {
    if (this.#successor) throw new TypeError(`bitmap '${this.name}' is frozen already`)
    this.busy = busy
    this.#successor = new Bitset(this.#bits.capacity)
  }

  /** Ends `freeze`: only what changed meanwhile is dirty. Returns what was dirty before. */
  abdicate(): Bitset {
    const former = this.#bits
    this.#bits = this.#thaw()
    return former
  }

  /** Ends `freeze`: what changed meanwhile is dirty as well. */
  reclaim(): void {
    for (const [from, to] of this.#thaw().runs()) this.#bits.add(from, to)
  }

  /**
   * Fills `target` with bits as files keep them, the lowest of a byte first, from the one of
   * `offset` on. They begin, and number, multiples of 32.
   */
  writeBits(offset: number, target: Uint8Array): void {
    this.#bits.writeBits(offset / this.granularity, target)
  }

  /** Adds bits of a file, the reverse of `writeBits`. */
  addBits(offset: number, source: Uint8Array): void {
    this.#bits.addBits(offset / this.granularity, source)
  }

  #thaw(): Bitset {
    const successor = this.#successor
    if (!successor) throw new TypeError(`bitmap '${this.name}' is not frozen`)
    this.#successor = undefined
    this.busy = undefined
    return successor
  }
}

function addBytes(bits: Bitset, granularity: number, offset: number, length: number): void {
  const first = Math.floor(offset / granularity)
  bits.add(first, Math.min(bits.capacity, Math.ceil((offset + length) / granularity)))
}

function bitsOf(size: number, granularity: number): number {
  const bits = Math.ceil(size / granularity)
  if (bits <= maxBits) return bits
  throw new BlockError(
    'UNSUPPORTED',
    `a dirty bitmap of ${bits} bits is above the limit of ${maxBits}: use a larger granularity`,
    { errno: 'EFBIG' },
  )
}

function checkGranularity(granularity: number): void {
  if (isPowerOfTwo(granularity) && granularity >= minGranularity && granularity <= maxGranularity) {
    return
  }
  throw invalid(
    `a granularity of ${granularity} is no power of two from ${minGranularity} to ${maxGranularity}`,
  )
}
