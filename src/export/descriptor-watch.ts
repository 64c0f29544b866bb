/**
 * Waits for many descriptors that libuv cannot watch, with one thread of the pool for all of them. To hear of
 * them from there takes two changes of threads, so while requests come close behind each other they are
 * looked for from here (`idle-poll.ts`).
 *
 * Whoever is told reads until nothing is left, or withdraws his descriptor.
 */
import { closeSync, readSync, writeSync } from 'node:fs'
import { setImmediate as turn } from 'node:timers/promises'
import type { Sys } from '../sys/sys.ts'
import { IdlePoll } from './idle-poll.ts'

const one = new Uint8Array(new BigUint64Array([1n]).buffer)

export class DescriptorWatch {
  readonly #sys: Sys
  readonly #watched = new Map<number, () => void>()
  /** Ends the wait when what is watched has changed; open while anything is. */
  #event: number | undefined
  readonly #idle = new IdlePoll()

  constructor(sys: Sys) {
    this.#sys = sys
  }

  /** Calls `onReadable` whenever a read of `fd` returns at once, with bytes or an error. */
  add(fd: number, onReadable: () => void): void {
    this.#watched.set(fd, onReadable)
    if (this.#event === undefined) {
      this.#event = this.#sys.eventDescriptor()
      void this.#run(this.#event)
    } else this.#wake()
  }

  /** It may be closed from now on. */
  delete(fd: number): void {
    if (this.#watched.delete(fd)) this.#wake()
  }

  #wake(): void {
    if (this.#event !== undefined) writeSync(this.#event, one)
  }

  async #run(event: number): Promise<void> {
    const count = new Uint8Array(8)
    while (this.#watched.size > 0) {
      if (this.#idle.awake) await turn()
      else await this.#sys.untilReadable([event, ...this.#watched.keys()])
      if (this.#sys.isReadable(event)) readSync(event, count)
      for (const [fd, onReadable] of [...this.#watched]) {
        if (!this.#watched.has(fd) || !this.#sys.isReadable(fd)) continue
        onReadable()
        this.#idle.heard()
      }
    }
    this.#event = undefined
    closeSync(event)
  }
}
