/**
 * The file under an image. It is as long as its clusters need: reads behind the end give zeroes,
 * because the last cluster may be cut off, and space for new clusters is added in large steps, which
 * are given back when the image is closed.
 */
import type { DebugEvent } from '../../block/debug.ts'
import {
  type BlockLayer,
  type Completion,
  type Io,
  plainIo,
  plainWriteIo,
} from '../../block/layer.ts'
import { alignUp, type ByteRange, MiB } from '../../bytes/range.ts'
import { BlockError } from '../../errors.ts'
import type { Faults } from './faults.ts'
import { LeftOut } from './left-out.ts'
import { maxHostOffset } from './limits.ts'

/** Smallest and largest step in which the file grows. */
const minGrowth = 4 * MiB
const maxGrowth = 256 * MiB

export class ImageFile {
  readonly layer: BlockLayer
  readonly clusterSize: number
  readonly #faults: Faults
  #size: number
  /** Everything from here on has never been written by anybody. */
  #untouched: number
  #growing: Promise<void> | undefined
  readonly leftOut = new LeftOut()

  constructor(layer: BlockLayer, clusterSize: number, faults: Faults) {
    this.layer = layer
    this.clusterSize = clusterSize
    this.#faults = faults
    this.#size = layer.size
    this.#untouched = layer.size
  }

  /** Bytes. Nobody else resizes the file while the image is open. */
  get size(): number {
    return this.#size
  }

  /** Where what was ever written ends: what is behind it was reserved in one go. */
  get end(): number {
    return Math.min(this.#size, this.#untouched)
  }

  /** Tells a blkdebug node, if that is what the image lies on, what comes next. */
  at(event: DebugEvent): Completion {
    return this.layer.debugEvent?.(event)
  }

  /** Reads as much as the file has; zeroes behind its end. */
  read(offset: number, target: Uint8Array, io: Io): Completion {
    const inside = Math.min(target.length, Math.max(0, this.#size - offset))
    if (inside < target.length) target.fill(0, inside)
    if (inside > 0) return this.layer.read(offset, target.subarray(0, inside), io)
  }

  async write(offset: number, source: Uint8Array): Promise<void> {
    const end = offset + source.length
    if (end > this.#size) await this.reserve(end)
    this.#untouched = Math.max(this.#untouched, end)
    await this.layer.write(offset, source, plainWriteIo)
  }

  async flush(): Promise<void> {
    await this.layer.flush(plainIo)
  }

  /** Whether a host range that was just allocated reads as zeroes already. Notes that it is used. */
  claim(offset: number, length: number): boolean {
    const zeroed = offset >= this.#untouched && this.layer.capabilities.zeroInit
    this.#untouched = Math.max(this.#untouched, offset + length)
    return zeroed
  }

  /** The file is as long as somebody else has made it. */
  reread(): void {
    this.#size = this.layer.size
    this.#untouched = this.layer.size
  }

  /** Makes the file at least `end` long. Nothing has to be done in most cases. */
  reserve(end: number): Completion {
    if (end <= this.#size) return
    return this.#reserve(end)
  }

  /** Takes space for what is written later. Storage that cannot do so is left alone. */
  async occupy({ offset, length }: ByteRange): Promise<void> {
    await this.layer.occupy?.(offset, length, plainIo)
  }

  /** Adds what the last cluster lacks, so that all of it can be written in place. */
  async complete(): Promise<void> {
    const end = alignUp(this.#size, this.clusterSize)
    if (end > this.#size && this.layer.capabilities.resize) await this.#truncate(end)
  }

  /** Takes the space of what was left out so far. What cannot have it stays sparse. */
  async occupyLeftOut(): Promise<void> {
    const { layer, leftOut } = this
    for (const { offset, length } of leftOut.take()) {
      const inside = Math.min(length, this.#size - offset)
      if (inside <= 0) continue
      try {
        await layer.occupy?.(offset, inside, plainIo)
      } catch (error) {
        if (!(error instanceof BlockError)) throw error
        return
      }
    }
  }

  /** Gives back the space behind the last cluster that was used. */
  async trim(): Promise<void> {
    await this.occupyLeftOut()
    const end = alignUp(this.#untouched, this.clusterSize)
    if (end < this.#size && this.layer.capabilities.resize) await this.#truncate(end)
  }

  /** Cuts the file off behind `end`, which nothing reaches any more. */
  async shorten(end: number): Promise<void> {
    if (end >= this.#size || !this.layer.capabilities.resize) return
    await this.#truncate(end)
    this.#untouched = Math.min(this.#untouched, end)
  }

  async #reserve(end: number): Promise<void> {
    if (end > maxHostOffset) throw this.#faults.noSpace('the file would become larger than 2^53')
    while (end > this.#size) {
      this.#growing ??= this.#grow(end).finally(() => {
        this.#growing = undefined
      })
      await this.#growing
    }
  }

  async #grow(end: number): Promise<void> {
    if (!this.layer.capabilities.resize) {
      throw this.#faults.noSpace(
        `the storage of ${this.#size} bytes is full and cannot grow to ${end}`,
      )
    }
    if (this.layer.extend) {
      const exact = alignUp(end, this.clusterSize)
      await this.layer.extend(exact, plainWriteIo)
      this.#size = exact
      return
    }
    const step = Math.min(maxGrowth, Math.max(minGrowth, this.#size / 8))
    const ample = alignUp(Math.min(maxHostOffset, end + step), this.clusterSize)
    try {
      await this.#truncate(ample)
    } catch (error) {
      // What is asked for may fit where the reserve does not.
      if (!(error instanceof BlockError) || error.code !== 'NO_SPACE') throw error
      await this.#truncate(alignUp(end, this.clusterSize))
    }
  }

  async #truncate(size: number): Promise<void> {
    await this.layer.truncate(size, plainWriteIo)
    this.#size = size
  }
}

/**
 * Whether the file occupies so much less than its length that clusters must be holes, as in an
 * image with preallocated metadata. Only then are data clusters worth asking the file about. The
 * threshold is where qemu-img was seen to begin: two clusters and a ninth of what is occupied.
 */
export async function isSparse({ layer, size, clusterSize }: ImageFile): Promise<boolean> {
  const occupied = await layer.image?.allocatedSize?.()
  if (occupied === undefined) return false
  const clusters = Math.floor(occupied / clusterSize)
  const enough = Math.max(Math.floor((clusters * 10) / 9), clusters + 2)
  return Math.ceil(size / clusterSize) >= enough
}
