import { setTimeout as sleep } from 'node:timers/promises'

/** Length of the window over which the rate is kept, in milliseconds. */
const windowMs = 100

/** Holds work to a number of bytes a second. Changing the rate takes effect within a window. */
export class RateLimit {
  /** Bytes a second; 0 is no limit. */
  #rate = 0
  #windowEnds = 0
  #usedInWindow = 0

  get rate(): number {
    return this.#rate
  }

  set rate(rate: number) {
    this.#rate = rate
    this.#windowEnds = 0
  }

  /** Accounts for `bytes`, after waiting until the rate has room for what went before. */
  async take(bytes: number, signal: AbortSignal): Promise<void> {
    while (this.#rate > 0) {
      const now = performance.now()
      if (now >= this.#windowEnds) {
        // What went beyond the budget is paid off in later windows.
        const windows = Math.max(1, Math.floor((now - this.#windowEnds) / windowMs) + 1)
        this.#usedInWindow = Math.max(0, this.#usedInWindow - windows * this.#budget())
        this.#windowEnds = now + windowMs
      }
      if (this.#usedInWindow < this.#budget()) break
      await sleep(this.#windowEnds - now, undefined, { signal }).catch(() => {})
      // As everywhere, an abort rejects with the reason that was given for it.
      signal.throwIfAborted()
    }
    this.#usedInWindow += bytes
  }

  #budget(): number {
    return (this.#rate * windowMs) / 1000
  }
}
