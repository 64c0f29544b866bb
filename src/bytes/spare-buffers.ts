/** Most bytes kept for later. */
const maxKeptBytes = 4 * 1024 * 1024

/**
 * Buffers used for a moment, over and over: taking one that was used before costs nothing, making
 * one costs the zeroing of its pages and work for the garbage collector. All are of one length at
 * a time; another length starts anew.
 */
export class SpareBuffers {
  #spare: Uint8Array[] = []
  #length = 0

  /** `length` bytes of whatever was in them. */
  take(length: number): Uint8Array {
    const kept = length === this.#length ? this.#spare.pop() : undefined
    return kept ?? new Uint8Array(Buffer.allocUnsafeSlow(length).buffer)
  }

  /** The caller does not look at it any more. */
  giveBack(buffer: Uint8Array): void {
    if (buffer.length !== this.#length) {
      this.#length = buffer.length
      this.#spare = []
    }
    if ((this.#spare.length + 1) * buffer.length <= maxKeptBytes) this.#spare.push(buffer)
  }
}
