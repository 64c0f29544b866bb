/**
 * Reads tables of an image, L2 tables or refcount blocks, one after the other. What the page cache has comes at once; where the storage has to be
 * waited for, the tables that come next are asked for as well, so that it always has something to do.
 */
import { plainIo } from '../../../block/layer.ts'
import type { ImageFile } from '../image-file.ts'

/** Tables on their way at a time: of 2 MiB at most. */
const ahead = 8

interface Reading {
  readonly offset: number
  readonly bytes: Uint8Array
  readonly done: Promise<void>
}

export class ReadAhead {
  readonly #file: Pick<ImageFile, 'read'>
  /** Of the tables that may be read early, in the order in which they will be wanted. */
  readonly #offsets: readonly number[]
  /** Of the next table that nobody has asked the storage for. */
  #next = 0
  readonly #onTheirWay: Reading[] = []
  readonly #spare: Uint8Array[] = []

  constructor(file: Pick<ImageFile, 'read'>, offsets: readonly number[]) {
    this.#file = file
    this.#offsets = offsets
  }

  /** Reads the table at `offset` into `target`, which has the size of a cluster. */
  async read(offset: number, target: Uint8Array): Promise<void> {
    const [first] = this.#onTheirWay
    if (first?.offset === offset) {
      this.#onTheirWay.shift()
      this.#fill(target.length)
      await first.done
      target.set(first.bytes)
      this.#spare.push(first.bytes)
      return
    }
    const read = this.#file.read(offset, target, plainIo)
    if (this.#offsets[this.#next] === offset) this.#next++
    if (!read) return
    this.#fill(target.length)
    await read
  }

  /** Has as many tables on their way as there may be. */
  #fill(length: number): void {
    while (this.#onTheirWay.length < ahead && this.#next < this.#offsets.length) {
      const offset = this.#offsets[this.#next++]
      const bytes = this.#spare.pop() ?? new Uint8Array(length)
      // An error is of interest when the table is wanted.
      const done = this.#ask(offset, bytes)
      done.catch(() => {})
      this.#onTheirWay.push({ offset, bytes, done })
    }
  }

  async #ask(offset: number, bytes: Uint8Array): Promise<void> {
    await this.#file.read(offset, bytes, plainIo)
  }
}
