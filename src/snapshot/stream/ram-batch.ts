/**
 * Records of RAM that have arrived together, as columns: a guest has millions of pages, and an
 * object for each costs more than copying it. Whoever wants objects iterates.
 */
import type { RamRecord, RamRecords } from './stream-item.ts'

const nothing = new Uint8Array(0)

const kinds = ['page', 'zero', 'delta'] as const

export class RamBatch implements RamRecords {
  #length = 0
  readonly #blocks: Uint32Array
  readonly #offsets: Float64Array
  readonly #kinds: Uint8Array
  /** Where the data lies in `#bytes`. */
  readonly #starts: Uint32Array
  readonly #lengths: Uint32Array
  /** Data that does not lie there: pages that were made of less. */
  readonly #apart = new Map<number, Uint8Array>()
  #bytes: Uint8Array = nothing

  constructor(capacity: number) {
    this.#blocks = new Uint32Array(capacity)
    this.#offsets = new Float64Array(capacity)
    this.#kinds = new Uint8Array(capacity)
    this.#starts = new Uint32Array(capacity)
    this.#lengths = new Uint32Array(capacity)
  }

  get length(): number {
    return this.#length
  }

  get isFull(): boolean {
    return this.#length === this.#blocks.length
  }

  /** Empties it; data of what is added from now on lies in `bytes`. */
  begin(bytes: Uint8Array): void {
    this.#length = 0
    this.#apart.clear()
    this.#bytes = bytes
  }

  add(block: number, offset: number, kind: RamRecord['kind'], start: number, length: number): void {
    const index = this.#length++
    this.#blocks[index] = block
    this.#offsets[index] = offset
    this.#kinds[index] = kinds.indexOf(kind)
    this.#starts[index] = start
    this.#lengths[index] = length
  }

  /** A page with data of its own. */
  addApart(block: number, offset: number, data: Uint8Array): void {
    this.#apart.set(this.#length, data)
    this.add(block, offset, 'page', 0, 0)
  }

  block(index: number): number {
    return this.#blocks[index]
  }

  offset(index: number): number {
    return this.#offsets[index]
  }

  kind(index: number): RamRecord['kind'] {
    return kinds[this.#kinds[index]]
  }

  data(index: number): Uint8Array {
    const length = this.#lengths[index]
    if (length > 0) {
      const start = this.#starts[index]
      return this.#bytes.subarray(start, start + length)
    }
    return this.#apart.get(index) ?? nothing
  }

  *[Symbol.iterator](): Iterator<RamRecord> {
    for (let index = 0; index < this.#length; index++) {
      yield {
        ...{ block: this.block(index), offset: this.offset(index), kind: this.kind(index) },
        data: this.data(index),
      }
    }
  }
}
