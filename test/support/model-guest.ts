/** A guest that does random requests and knows what it must read. */
import { setImmediate } from 'node:timers/promises'
import { expect } from 'vitest'
import type { Edge } from '../../src/graph/edge.ts'
import type { Random } from './random.ts'

export class ModelGuest {
  readonly model: Buffer
  readonly #edge: Edge
  readonly #random: Random
  #stopped = false
  #running: Promise<void> | undefined

  /** `model`: what the disk holds now; taken over. */
  constructor(edge: Edge, random: Random, model: Buffer) {
    this.#edge = edge
    this.#random = random
    this.model = model
  }

  /** One random request; reads are compared with the model. */
  async step(): Promise<void> {
    const random = this.#random
    const [offset, length] = random.range(this.model.length, 512, 300_000)
    const kind = random.below(5)
    if (kind === 0) {
      const target = new Uint8Array(length)
      await this.#edge.read(offset, target)
      expect(Buffer.compare(target, this.model.subarray(offset, offset + length))).toBe(0)
    } else if (kind === 1) {
      await this.#edge.writeZeroes(offset, length, { mayUnmap: random.chance(0.5) })
      this.model.fill(0, offset, offset + length)
    } else {
      const bytes = random.bytes(length)
      await this.#edge.write(offset, bytes)
      this.model.set(bytes, offset)
    }
  }

  /** Goes on until `stop`. */
  start(): void {
    const go = async () => {
      while (!this.#stopped) {
        await this.step()
        await setImmediate()
      }
    }
    this.#running = go()
    // Told by `stop`.
    this.#running.catch(() => {})
  }

  async stop(): Promise<void> {
    this.#stopped = true
    await this.#running
  }
}
