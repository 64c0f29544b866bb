/**
 * Whether requests may be answered on the spot, by a call that might block. That is right while
 * they only copy to or from the page cache: it takes microseconds, where the thread pool takes
 * ten times as long. It is wrong while the kernel makes them wait, because it has too many dirty
 * pages or must read from the disk first: the whole process would wait with them.
 *
 * What requests take beyond an allowance is added up, what they leave of it is taken off. A
 * single late answer, when another process had the processor, is soon made up for; waiting that
 * goes on is not.
 */

/**
 * What a request may take: milliseconds, and bytes per millisecond on top. Work, not waiting, can be
 * as much as a tenth of a millisecond: that is what ext4 does for 4 KiB of a page cache that holds
 * the file in pieces of 2 MiB, and in the pool it would do the same.
 */
const allowanceMs = 0.25
const allowanceBytesPerMs = 4_000_000

/** Waiting that has added up to this much is not chance. */
const tooMuchMs = 6

const firstPauseMs = 50
const longestPauseMs = 1000

export class Pace {
  #waitedMs = 0
  #pauseUntil = 0
  #pauseMs = firstPauseMs

  /** `now` is in milliseconds on any clock that does not go back. */
  allows(now: number): boolean {
    return now >= this.#pauseUntil
  }

  /** A request of `length` bytes on the spot took from `began` to `ended`. */
  took(length: number, began: number, ended: number): void {
    const over = ended - began - allowanceMs - length / allowanceBytesPerMs
    this.#waitedMs = Math.max(0, this.#waitedMs + over)
    if (this.#waitedMs > tooMuchMs) this.#pause(ended)
  }

  /** The longer the storage stays slow, the longer nobody tries it again. */
  #pause(now: number): void {
    const soonAgain = now - this.#pauseUntil < longestPauseMs
    this.#pauseMs = soonAgain ? Math.min(this.#pauseMs * 2, longestPauseMs) : firstPauseMs
    this.#pauseUntil = now + this.#pauseMs
    // Half, so that the next attempt is given up sooner.
    this.#waitedMs = tooMuchMs / 2
  }
}
