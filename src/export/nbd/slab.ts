/**
 * Memory for replies and payloads, used again and again: fresh memory costs page faults, and the
 * file layers know the addresses of buffers that they have seen.
 */
import { giveBack } from '../../bytes/give-back.ts'
import { KiB, MiB } from '../../bytes/range.ts'
import { maxPooledBytes } from './limits.ts'

/** Room for headers that slabs have beyond a power of two. */
const headroom = 4 * KiB

/** Bytes of the longest slab that is kept for another time. */
const maxKeptLength = 4 * MiB + headroom

/** A piece of memory. It goes back to its pool when the last holder lets go. */
export class Slab {
  readonly bytes: Uint8Array
  readonly view: DataView
  holders = 0
  /** Bytes given out, from the start. Kept by whoever fills it. */
  used = 0

  constructor(length: number) {
    const buffer = Buffer.allocUnsafeSlow(length)
    this.bytes = buffer
    this.view = new DataView(buffer.buffer, buffer.byteOffset, length)
  }
}

export class SlabPool {
  /** Free slabs by length. */
  readonly #free = new Map<number, Slab[]>()
  #pooled = 0
  /** Bytes of slabs that were freed, ever. */
  freed = 0

  /** Bytes of all free slabs. */
  get pooled(): number {
    return this.#pooled
  }

  /** A slab of at least `length` bytes with one holder. Its content is anything. */
  take(length: number): Slab {
    const rounded = roundedLength(length)
    const slab = this.#free.get(rounded)?.pop()
    if (slab) this.#pooled -= rounded
    const taken = slab ?? new Slab(rounded)
    taken.holders = 1
    taken.used = 0
    return taken
  }

  /** One holder lets go. */
  release(slab: Slab): void {
    slab.holders--
    const { length } = slab.bytes
    if (slab.holders > 0) return
    // The collector does not come by while a server is idle, and would leave gigabytes.
    if (length > maxKeptLength || this.#pooled + length > maxPooledBytes) {
      this.freed += length
      giveBack(slab.bytes)
      return
    }
    const free = this.#free.get(length)
    if (free) free.push(slab)
    else this.#free.set(length, [slab])
    this.#pooled += length
  }
}

/** Few different lengths, so that what was given back fits again. */
function roundedLength(length: number): number {
  const wanted = Math.max(length - headroom, headroom)
  const rounded = 2 ** Math.ceil(Math.log2(wanted)) + headroom
  return rounded <= maxKeptLength ? rounded : length
}
