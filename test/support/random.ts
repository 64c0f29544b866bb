/** Reproducible chance: everything random in a test comes from a seed that is in its name. */

/** `VARVE_SEED` replays a run; otherwise each run has a seed of its own. */
export const runSeed: number = Number(process.env.VARVE_SEED ?? Math.floor(Math.random() * 2 ** 31))

/** Appended to a test's name, so that a failure says how to replay it. */
export const seedNote = `VARVE_SEED=${runSeed}`

export class Random {
  #state: number

  constructor(seed: number = runSeed) {
    this.#state = seed >>> 0
  }

  /** At least 0, below 1. */
  next(): number {
    // Weyl sequence and two rounds of multiply and xor-shift over 32 bits.
    this.#state = (this.#state + 0x9e3779b9) >>> 0
    let mixed = this.#state
    mixed = Math.imul(mixed ^ (mixed >>> 16), 0x21f0aaad)
    mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a2d97)
    return ((mixed ^ (mixed >>> 15)) >>> 0) / 2 ** 32
  }

  /** A whole number, at least 0 and below `end`. */
  below(end: number): number {
    return Math.floor(this.next() * end)
  }

  chance(probability: number): boolean {
    return this.next() < probability
  }

  pick<T>(choices: readonly T[]): T {
    return choices[this.below(choices.length)]
  }

  /** Bytes that do not compress, or repeat one value, so that both are met. */
  bytes(length: number): Uint8Array {
    const bytes = new Uint8Array(length)
    if (this.chance(0.3)) return bytes.fill(this.below(256))
    const words = new Uint32Array(Math.ceil(length / 4))
    for (let at = 0; at < words.length; at++) words[at] = this.below(2 ** 32)
    bytes.set(new Uint8Array(words.buffer, 0, length))
    return bytes
  }

  /**
   * A range inside [0, `size`), aligned at both ends or ending at `size`. Short ones are as
   * likely as long ones, and the two ends of the disk come up often.
   */
  range(size: number, alignment: number, maxLength: number = size): [number, number] {
    const blocks = Math.ceil(size / alignment)
    const longest = Math.max(1, Math.min(blocks, Math.floor(maxLength / alignment)))
    const count = Math.max(1, Math.floor(longest ** this.next()))
    const first = this.chance(0.1) ? 0 : this.below(blocks - count + 1)
    const start = this.chance(0.1) ? blocks - count : first
    const offset = start * alignment
    return [offset, Math.min(count * alignment, size - offset)]
  }
}
