/**
 * Who wants a job to rest - the user, an error, a drain - and which requests of it are still under
 * way. It rests as long as anybody holds it.
 */
import { deferred } from '../block/deferred.ts'

export class Pauses {
  #holders = 0
  #resumed = deferred()
  #inFlight = 0
  #idle = deferred()

  /** Whether anybody holds the job. */
  get held(): boolean {
    return this.#holders > 0
  }

  /** Settles when nobody holds it any more, or at `wake`. */
  get resumed(): Promise<void> {
    return this.#resumed.promise
  }

  /** Returns whether this was the first to hold it. */
  hold(): boolean {
    if (this.#holders++ > 0) return false
    this.#resumed = deferred()
    return true
  }

  letGo(): void {
    if (--this.#holders === 0) this.#resumed.resolve()
  }

  /** Lets who rests look up, though somebody holds it. */
  wake(): void {
    this.#resumed.resolve()
  }

  /** Runs requests for whose end `idle` waits. */
  async during<T>(work: () => Promise<T>): Promise<T> {
    this.#inFlight++
    try {
      return await work()
    } finally {
      this.#inFlight--
      if (this.#inFlight === 0) {
        this.#idle.resolve()
        this.#idle = deferred()
      }
    }
  }

  /** Settles when no request is under way. */
  async idle(): Promise<void> {
    while (this.#inFlight > 0) await this.#idle.promise
  }
}
