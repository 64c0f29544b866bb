/** Holds writes back to so many bytes a second; several devices may share one limit. */
import { setTimeout as sleep } from 'node:timers/promises'

export class RateLimit {
  readonly #bytesPerSecond: number
  readonly #signal: AbortSignal | undefined
  /** When all that was let through would have taken its time, in ms. */
  #due = 0

  constructor(bytesPerSecond: number, signal?: AbortSignal) {
    this.#bytesPerSecond = bytesPerSecond
    this.#signal = signal
  }

  /** Settles when `bytes` more may be written. */
  async take(bytes: number): Promise<void> {
    const now = performance.now()
    const start = Math.max(now, this.#due)
    this.#due = start + (bytes * 1000) / this.#bytesPerSecond
    if (start > now) await sleep(start - now, undefined, this.#signal && { signal: this.#signal })
  }
}
