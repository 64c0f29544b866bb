/** Reproducible chance: everything random in a test comes from a seed that is in its name. */
import { SeededRandom } from '../../src/bytes/seeded-random.ts'

/** `VARVE_SEED` replays a run; otherwise each run has a seed of its own. */
export const runSeed: number = Number(process.env.VARVE_SEED ?? Math.floor(Math.random() * 2 ** 31))

/** Appended to a test's name, so that a failure says how to replay it. */
export const seedNote = `VARVE_SEED=${runSeed}`

export class Random extends SeededRandom {
  constructor(seed: number = runSeed) {
    super(seed)
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
