/**
 * Holds the requests of several disks to common limits, by leaky buckets. Every request that is let
 * go pours its bytes, or operations, into the buckets that count it, which leak at their rate; a
 * request waits while one of its buckets is over full. So a long request is never cut: those after
 * it pay for it.
 *
 * Disks take turns, request by request, in each direction; requests of one disk keep their order,
 * but for a job's, which let pass what somebody waits for.
 */
import type { Completion, Io } from './layer.ts'
import {
  type BucketLimits,
  type BucketName,
  noLimits,
  type ThrottleLimits,
  throttleBuckets,
} from './throttle-limits.ts'

export type Direction = 'read' | 'write'

/** Milliseconds, from any moment on; for tests. */
export type Clock = () => number

interface Waiter {
  readonly length: number
  readonly background: boolean
  /** Later ones that have got in front of it. */
  overtaken: number
  readonly go: () => void
}

/** One disk of a group. */
export interface ThrottleMember {
  readonly queues: Readonly<Record<Direction, Waiter[]>>
  /** Above 0 while requests pass without limits, because somebody drains the disk. */
  exempt: number
}

/** Without `max` a burst may be this part of a second long. */
const shortBurst = 0.1

/** A job on a disk whose users are at their limit still gets its share, if a small one. */
const maxOvertaken = 8

/** The longest that is slept at once; what is left is slept afterwards. */
const maxSleepMs = 60_000

export class ThrottleGroup {
  readonly #clock: Clock
  readonly #members: ThrottleMember[] = []
  /** Whose turn it is, as an index of `#members`. */
  readonly #turns: Record<Direction, number> = { read: 0, write: 0 }
  readonly #timers: Record<Direction, NodeJS.Timeout | undefined> = {
    read: undefined,
    write: undefined,
  }
  #waiting = 0
  #limits = noLimits
  #buckets: ReadonlyMap<BucketName, LeakyBucket> = new Map()

  constructor(limits: ThrottleLimits = noLimits, clock: Clock = () => performance.now()) {
    this.#clock = clock
    this.limits = limits
  }

  get limits(): ThrottleLimits {
    return this.#limits
  }

  /** In force at once, for those who wait too; buckets begin empty. */
  set limits(limits: ThrottleLimits) {
    this.#limits = limits
    const now = this.#clock()
    this.#buckets = new Map(
      throttleBuckets
        .filter((name) => limits[name].rate > 0)
        .map((name) => [name, new LeakyBucket(limits[name], now)]),
    )
    this.#runAll()
  }

  /** Whether a disk belongs to the group. */
  get inUse(): boolean {
    return this.#members.length > 0
  }

  join(): ThrottleMember {
    const member: ThrottleMember = { queues: { read: [], write: [] }, exempt: 0 }
    this.#members.push(member)
    return member
  }

  leave(member: ThrottleMember): void {
    const index = this.#members.indexOf(member)
    if (index < 0) return
    this.#letAllGo(member)
    this.#members.splice(index, 1)
    for (const direction of ['read', 'write'] as const) {
      if (this.#turns[direction] > index) this.#turns[direction]--
    }
  }

  /** Settles when the request may begin; rejects with `io.signal.reason` if that fires before. */
  take(member: ThrottleMember, direction: Direction, length: number, io: Io): Completion {
    if (this.#buckets.size === 0 || member.exempt > 0) return
    if (this.#waiting === 0 && this.#waitFor(direction) === 0) return this.#count(direction, length)
    return this.#wait(member, direction, length, io)
  }

  /** Lets all requests of a disk pass, those that wait too, until as many calls of `limit`. */
  exempt(member: ThrottleMember): void {
    member.exempt++
    this.#letAllGo(member)
  }

  limit(member: ThrottleMember): void {
    member.exempt--
  }

  async #wait(
    { queues }: ThrottleMember,
    direction: Direction,
    length: number,
    { signal, background = false }: Io,
  ): Promise<void> {
    signal.throwIfAborted()
    const queue = queues[direction]
    await new Promise<void>((resolve, reject) => {
      const abort = () => {
        const index = queue.indexOf(waiter)
        if (index < 0) return
        queue.splice(index, 1)
        this.#waiting--
        reject(signal.reason)
      }
      const waiter: Waiter = {
        length,
        background,
        overtaken: 0,
        go: () => {
          this.#waiting--
          signal.removeEventListener('abort', abort)
          resolve()
        },
      }
      this.#waiting++
      enqueue(queue, waiter)
      signal.addEventListener('abort', abort, { once: true })
      this.#run(direction)
    })
  }

  #runAll(): void {
    for (const direction of ['read', 'write'] as const) {
      clearTimeout(this.#timers[direction])
      this.#timers[direction] = undefined
      this.#run(direction)
    }
  }

  /** Lets go who may go now, in turns, and sets the alarm for the next. */
  #run(direction: Direction): void {
    if (this.#timers[direction]) return
    for (let queue = this.#next(direction); queue; queue = this.#next(direction)) {
      const wait = this.#waitFor(direction)
      if (wait > 0) {
        const alarm = () => {
          this.#timers[direction] = undefined
          this.#run(direction)
        }
        this.#timers[direction] = setTimeout(alarm, Math.min(Math.ceil(wait), maxSleepMs))
        return
      }
      const waiter = queue.shift() as Waiter
      this.#turns[direction]++
      this.#count(direction, waiter.length)
      waiter.go()
    }
  }

  /** The queue of the first disk, from the one whose turn it is, that has requests waiting. */
  #next(direction: Direction): Waiter[] | undefined {
    const count = this.#members.length
    for (let step = 0; step < count; step++) {
      const index = (this.#turns[direction] + step) % count
      const queue = this.#members[index].queues[direction]
      if (queue.length === 0) continue
      this.#turns[direction] = index
      return queue
    }
    return undefined
  }

  /** Milliseconds until a request of the direction may go. */
  #waitFor(direction: Direction): number {
    const now = this.#clock()
    let wait = 0
    for (const name of bucketsOf[direction]) {
      wait = Math.max(wait, this.#buckets.get(name)?.waitMs(now) ?? 0)
    }
    return wait
  }

  #count(direction: Direction, length: number): void {
    const size = this.#limits['iops-size']
    const operations = size > 0 && length > size ? length / size : 1
    const now = this.#clock()
    for (const name of bucketsOf[direction]) {
      this.#buckets.get(name)?.pour(name.startsWith('bps') ? length : operations, now)
    }
  }

  #letAllGo(member: ThrottleMember): void {
    for (const queue of Object.values(member.queues)) {
      for (const waiter of queue.splice(0)) waiter.go()
    }
  }
}

/** At the end, or before the job's requests there, as far as they have not been overtaken enough. */
function enqueue(queue: Waiter[], waiter: Waiter): void {
  let place = queue.length
  if (!waiter.background) {
    while (place > 0 && queue[place - 1].background && queue[place - 1].overtaken < maxOvertaken) {
      place--
      queue[place].overtaken++
    }
  }
  queue.splice(place, 0, waiter)
}

const bucketsOf: Readonly<Record<Direction, readonly BucketName[]>> = {
  read: ['bps-total', 'bps-read', 'iops-total', 'iops-read'],
  write: ['bps-total', 'bps-write', 'iops-total', 'iops-write'],
}

/**
 * Two buckets in one: `level` leaks at the long-term rate and holds a whole burst; for bursts of
 * more than a second, `burstLevel` leaks at the burst's rate and keeps it from coming at once.
 */
class LeakyBucket {
  readonly #limits: BucketLimits
  #level = 0
  #burstLevel = 0
  #leakedAt: number

  constructor(limits: BucketLimits, now: number) {
    this.#limits = limits
    this.#leakedAt = now
  }

  pour(amount: number, now: number): void {
    this.#leak(now)
    this.#level += amount
    if (this.#limits.maxLength > 1) this.#burstLevel += amount
  }

  waitMs(now: number): number {
    this.#leak(now)
    const { rate, max, maxLength } = this.#limits
    const capacity = max > 0 ? max * maxLength : rate * shortBurst
    const wait = (this.#level - capacity) / rate
    const burstWait = maxLength > 1 ? (this.#burstLevel - max * shortBurst) / max : 0
    return Math.max(0, wait, burstWait) * 1000
  }

  #leak(now: number): void {
    const seconds = (now - this.#leakedAt) / 1000
    this.#leakedAt = now
    this.#level = Math.max(0, this.#level - this.#limits.rate * seconds)
    this.#burstLevel = Math.max(0, this.#burstLevel - this.#limits.max * seconds)
  }
}
