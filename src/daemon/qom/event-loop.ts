/**
 * The settings of `iothread` and `main-loop`: remembered, checked as QEMU does, and of no effect,
 * since there is one event loop with a pool of threads behind it.
 */
import { invalid } from '../../errors.ts'
import { check } from '../schema/check.ts'
import { int, object, required } from '../schema/types.ts'
import type { PropertyValues } from './property-values.ts'

const initial: Readonly<Record<string, number>> = {
  'poll-max-ns': 32768,
  'poll-grow': 0,
  'poll-shrink': 0,
  'aio-max-batch': 0,
  'thread-pool-min': 0,
  'thread-pool-max': 64,
}

const highest = 2n ** 63n - 1n
/** The sizes of the pool are kept in 32 bits. */
const highestPoolSize = 2 ** 31 - 1

export class EventLoopSettings implements PropertyValues {
  readonly #values = new Map(Object.entries(initial))

  /** Throws `INVALID_ARGUMENT` when a number is out of range, or the pool's do not go together. */
  constructor(given: Readonly<Record<string, number | undefined>>) {
    for (const [name, value] of Object.entries(given)) {
      if (value !== undefined) this.#store(name, value)
    }
    this.#checkPool()
  }

  get(name: string): number {
    return this.#values.get(name) ?? 0
  }

  set(name: string, value: unknown): void {
    const { [name]: number } = check(object('', { [name]: required(int, '') }), { [name]: value })
    this.#store(name, number)
    // A pair that is refused stays all the same, as in QEMU: only starting a pool minds it.
    if (name.startsWith('thread-pool')) this.#checkPool()
  }

  #store(name: string, value: number): void {
    if (value < 0) throw invalid(`${name} value must be in range [0, ${highest}]`)
    this.#values.set(name, value)
  }

  #checkPool(): void {
    const [min, max] = [this.get('thread-pool-min'), this.get('thread-pool-max')]
    if (min <= max && max > 0 && max <= highestPoolSize) return
    throw invalid('bad thread-pool-min/thread-pool-max values')
  }
}
