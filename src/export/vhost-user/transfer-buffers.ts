/** Buffers that data passes through between the disk and guest memory, whose addresses are known. */
import { KiB } from '../../bytes/range.ts'
import type { Sys } from '../../sys/sys.ts'
import { maxSpareBytes, pieceLength } from './limits.ts'

export interface TransferBuffer {
  readonly bytes: Uint8Array
  readonly address: number
}

const shortest = 4 * KiB
/** O_DIRECT wants no more. */
const alignment = 4 * KiB

export class TransferBuffers {
  readonly #sys: Sys
  /** By their length, a power of two. */
  readonly #spare = new Map<number, TransferBuffer[]>()
  #spareBytes = 0

  constructor(sys: Sys) {
    this.#sys = sys
  }

  /** What `take` would make for so many bytes. */
  static lengthFor(length: number): number {
    let found = shortest
    while (found < length && found < pieceLength) found *= 2
    return found
  }

  /** At least so many bytes of whatever was in them, or a piece's. */
  take(length: number): TransferBuffer {
    const whole = TransferBuffers.lengthFor(length)
    const found = this.#spare.get(whole)?.pop()
    if (found) {
      this.#spareBytes -= whole
      return found
    }
    const bytes = this.#sys.alignedMemory(whole, alignment)
    return { bytes, address: this.#sys.sharedMemory?.addressOf(bytes) ?? 0 }
  }

  giveBack(buffer: TransferBuffer): void {
    const { length } = buffer.bytes
    if (this.#spareBytes + length > maxSpareBytes) return
    this.#spareBytes += length
    const spare = this.#spare.get(length)
    if (spare) spare.push(buffer)
    else this.#spare.set(length, [buffer])
  }
}
