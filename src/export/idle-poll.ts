/**
 * Stays awake for a moment after each request of a busy client. Going to sleep and being woken by
 * the next request costs more than serving it (20 to 40 us each way on a virtual machine), so a
 * server whose clients ask again at once looks for the next request a little longer before it
 * sleeps: QEMU's event loops do the same (`poll-max-ns`).
 *
 * It learns from what happens. Only after several requests in close succession does it begin, and
 * the first wait in vain ends it, so that an idle or slow client costs nothing.
 */
import { availableParallelism } from 'node:os'

/** Milliseconds between two requests that count as close, and for which it is worth waiting. */
const closeMs = 0.2

/** Requests in close succession before waiting begins. */
const closeRequests = 8

export class IdlePoll {
  /** Where the client needs this processor to send its next request, waiting would hold it up. */
  readonly #useful = availableParallelism() > 1
  #lastMs = 0
  #succession = 0
  #waiting = false

  /** Whether the next request is waited for without sleeping. */
  get awake(): boolean {
    return this.#waiting
  }

  /** Requests have come. */
  heard(): void {
    if (!this.#useful) return
    const now = performance.now()
    this.#succession = now - this.#lastMs < closeMs ? this.#succession + 1 : 0
    this.#lastMs = now
    if (this.#waiting || this.#succession < closeRequests) return
    this.#waiting = true
    setImmediate(this.#wait)
  }

  /** Lets the event loop look around without sleeping, until nothing came for too long. */
  readonly #wait = (): void => {
    if (performance.now() - this.#lastMs < closeMs) {
      setImmediate(this.#wait)
    } else {
      this.#waiting = false
      this.#succession = 0
    }
  }
}
