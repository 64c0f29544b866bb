/**
 * Who works on which bytes. Shared holders of overlapping ranges run side by side, an exclusive
 * one alone; later requests wait behind earlier ones they conflict with, so nobody starves. The
 * same lock keeps requests on one cluster apart, serialises a read-modify-write, holds guest
 * writes until a block is copied, and knows what is in flight when a node is drained.
 */

export interface Hold {
  readonly offset: number
  /** First byte behind the range. */
  readonly end: number
  readonly exclusive: boolean
}

interface Waiter extends Hold {
  grant(hold: Hold): void
}

export class RangeLock {
  readonly #held = new Set<Hold>()
  #waiting: Waiter[] = []
  /** Exclusive holders and waiters. While it is 0, shared requests never wait. */
  #exclusives = 0
  #idle: (() => void)[] = []

  /** Number of ranges held. */
  get held(): number {
    return this.#held.size
  }

  /** Whether a shared request for the range would have to wait. */
  blocks(offset: number, length: number): boolean {
    return this.#exclusives > 0 && this.#conflict(offset, offset + length, false)
  }

  /**
   * Takes the range as soon as nothing conflicts. Rejects with `signal.reason` if that fires while
   * waiting. The holder calls `release` once.
   */
  acquire(
    offset: number,
    length: number,
    exclusive: boolean,
    signal?: AbortSignal,
  ): Hold | Promise<Hold> {
    const end = offset + length
    if (exclusive) this.#exclusives++
    if (this.#exclusives === 0 || !this.#conflict(offset, end, exclusive)) {
      const hold = { offset, end, exclusive }
      this.#held.add(hold)
      return hold
    }
    return this.#wait(offset, end, exclusive, signal)
  }

  release(hold: Hold): void {
    this.#held.delete(hold)
    if (hold.exclusive) this.#exclusives--
    if (this.#waiting.length > 0) this.#grantWaiters()
    if (this.#held.size === 0 && this.#idle.length > 0) this.#wakeIdle()
  }

  /**
   * Holds the range, shared, until `done` settles. Only after `blocks` said no, in the same turn:
   * for work that was started first and turned out to take time.
   */
  hold<T>(offset: number, length: number, done: Promise<T>): Promise<T> {
    const hold = { offset, end: offset + length, exclusive: false }
    this.#held.add(hold)
    return done.then(
      (value) => {
        this.release(hold)
        return value
      },
      (error) => {
        this.release(hold)
        throw error
      },
    )
  }

  /** Runs `work` while holding the range; at once if nobody is in the way. */
  during<T>(
    offset: number,
    length: number,
    exclusive: boolean,
    signal: AbortSignal | undefined,
    work: () => T | Promise<T>,
  ): T | Promise<T> {
    const hold = this.acquire(offset, length, exclusive, signal)
    return hold instanceof Promise
      ? hold.then((granted) => this.#holding(granted, work))
      : this.#holding(hold, work)
  }

  /** Settles when nothing is held or waiting. */
  async idle(): Promise<void> {
    while (this.#held.size > 0 || this.#waiting.length > 0) {
      await new Promise<void>((resolve) => this.#idle.push(resolve))
    }
  }

  #holding<T>(hold: Hold, work: () => T | Promise<T>): T | Promise<T> {
    let done: T | Promise<T>
    try {
      done = work()
    } catch (error) {
      this.release(hold)
      throw error
    }
    if (done instanceof Promise) return done.finally(() => this.release(hold))
    this.release(hold)
    return done
  }

  #conflict(offset: number, end: number, exclusive: boolean): boolean {
    for (const hold of this.#held) if (conflicts(hold, offset, end, exclusive)) return true
    for (const waiter of this.#waiting) if (conflicts(waiter, offset, end, exclusive)) return true
    return false
  }

  #wait(offset: number, end: number, exclusive: boolean, signal?: AbortSignal): Promise<Hold> {
    return new Promise<Hold>((resolve, reject) => {
      const waiter: Waiter = {
        offset,
        end,
        exclusive,
        grant: (hold) => {
          signal?.removeEventListener('abort', abort)
          resolve(hold)
        },
      }
      const abort = () => {
        this.#waiting = this.#waiting.filter((other) => other !== waiter)
        if (exclusive) this.#exclusives--
        this.#grantWaiters()
        if (this.#held.size === 0) this.#wakeIdle()
        reject(signal?.reason)
      }
      if (signal?.aborted) {
        if (exclusive) this.#exclusives--
        reject(signal.reason)
        return
      }
      this.#waiting.push(waiter)
      signal?.addEventListener('abort', abort, { once: true })
    })
  }

  /** Grants, in order, each waiter that conflicts with no holder and no earlier waiter. */
  #grantWaiters(): void {
    const before = this.#waiting
    this.#waiting = []
    for (const waiter of before) {
      if (this.#conflict(waiter.offset, waiter.end, waiter.exclusive)) {
        this.#waiting.push(waiter)
        continue
      }
      const hold = { offset: waiter.offset, end: waiter.end, exclusive: waiter.exclusive }
      this.#held.add(hold)
      waiter.grant(hold)
    }
  }

  #wakeIdle(): void {
    const waiting = this.#idle
    this.#idle = []
    for (const wake of waiting) wake()
  }
}

function conflicts(other: Hold, offset: number, end: number, exclusive: boolean): boolean {
  return (exclusive || other.exclusive) && offset < other.end && other.offset < end
}
