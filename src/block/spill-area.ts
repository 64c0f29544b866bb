/**
 * Room for old data on its way to a slow target, in slots of one size. What it may take of its
 * storage is bounded; slots that were freed are used again, the lowest first.
 */
import { Bitset } from '../bitmap/bitset.ts'
import type { BlockLayer, Io } from './layer.ts'
import { plainWriteIo } from './layer.ts'

/** A file, or the edge to a node. */
export type SpillStorage = Pick<BlockLayer, 'read' | 'write' | 'discard'> & AsyncDisposable

/** Bytes that several areas may take together. */
export interface SpillBudget {
  readonly limit: number
  /** Now, and at the worst moment. */
  used: number
  peak: number
}

export function spillBudget(limit: number): SpillBudget {
  return { limit, used: 0, peak: 0 }
}

/** Neighbouring slots. */
export interface SlotRun {
  readonly first: number
  readonly count: number
}

export class SpillArea implements AsyncDisposable {
  /** Bytes. */
  readonly slotSize: number
  readonly #storage: SpillStorage
  readonly #budget: SpillBudget
  readonly #taken: Bitset

  /** `storage` is taken over; `size` is how much of it may be used. */
  constructor(storage: SpillStorage, size: number, slotSize: number, budget: SpillBudget) {
    this.#storage = storage
    this.slotSize = slotSize
    this.#budget = budget
    this.#taken = new Bitset(Math.floor(Math.min(size, budget.limit) / slotSize))
  }

  /** The share that is taken, of this area or of the budget: 0 to 1. */
  get fullness(): number {
    const { used, limit } = this.#budget
    const { size, capacity } = this.#taken
    return capacity === 0 ? 1 : Math.max(size / capacity, used / limit)
  }

  /** Takes neighbouring slots, one at least and `most` at most; undefined when there is no room. */
  take(most: number): SlotRun | undefined {
    const room = Math.floor((this.#budget.limit - this.#budget.used) / this.slotSize)
    const first = this.#taken.nextAbsent(0)
    if (room < 1 || first === this.#taken.capacity) return undefined
    const behind = this.#taken.next(first, Math.min(this.#taken.capacity, first + most))
    const count = Math.min(behind - first, room)
    this.#taken.add(first, first + count)
    this.#charge(count)
    return { first, count }
  }

  /** Gives slots back, whose bytes are of no use any more; their room on the storage, too. */
  async free({ first, count }: SlotRun, io: Io): Promise<void> {
    try {
      // Before anybody else takes them: a discard that came late would take the new data.
      await this.#storage.discard(first * this.slotSize, count * this.slotSize, io)
    } catch {
      // A hint. The slots are used again, discarded or not.
    }
    this.#taken.delete(first, first + count)
    this.#charge(-count)
  }

  async write(first: number, data: Uint8Array, io: Io): Promise<void> {
    await this.#storage.write(first * this.slotSize, data, { ...plainWriteIo, ...io })
  }

  async read(slot: number, target: Uint8Array, io: Io): Promise<void> {
    await this.#storage.read(slot * this.slotSize, target, io)
  }

  /** Gives everything back. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#charge(-this.#taken.size)
    this.#taken.delete(0, this.#taken.capacity)
    await this.#storage[Symbol.asyncDispose]()
  }

  #charge(slots: number): void {
    const budget = this.#budget
    budget.used += slots * this.slotSize
    budget.peak = Math.max(budget.peak, budget.used)
  }
}
