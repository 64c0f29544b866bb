/** Reads the records of RAM: as many at a time as have arrived, without waiting in between. */
import { inflateSync } from 'node:zlib'
import { BlockError } from '../../errors.ts'
import { ramFlag } from './format.ts'
import { RamBatch } from './ram-batch.ts'
import type { RamBlock } from './ram-list.ts'
import type { StreamItem } from './stream-item.ts'
import type { Window } from './window.ts'

/** Records handed out together. */
const maxBatch = 1024

const {
  RAM_SAVE_FLAG_ZERO,
  RAM_SAVE_FLAG_PAGE,
  RAM_SAVE_FLAG_EOS,
  RAM_SAVE_FLAG_CONTINUE,
  RAM_SAVE_FLAG_XBZRLE,
  RAM_SAVE_FLAG_COMPRESS_PAGE,
  RAM_SAVE_FLAG_MULTIFD_FLUSH,
} = ramFlag

const what = 'a part of RAM'

export class RamRecordReader {
  readonly blocks: readonly RamBlock[]
  /** Other channels were told to flush: they have pages that are not here. */
  flushed = false
  readonly #window: Window
  readonly #pageSize: number
  readonly #byName: ReadonlyMap<string, number>
  /** The block named last; `CONTINUE` means it, also in the next section. */
  #block = -1
  readonly #batch = new RamBatch(maxBatch)
  #ended = false

  constructor(window: Window, blocks: readonly RamBlock[], pageSize: number) {
    this.#window = window
    this.blocks = blocks
    this.#pageSize = pageSize
    this.#byName = new Map(blocks.map(({ name }, index) => [name, index]))
  }

  /** All records of one section, to its end mark. */
  async *read(): AsyncGenerator<StreamItem, void> {
    const window = this.#window
    const batch = this.#batch
    this.#ended = false
    while (!this.#ended) {
      batch.begin(window.memory)
      let missing = 0
      while (!this.#ended && missing === 0 && !batch.isFull) missing = this.#next()
      if (batch.length > 0) yield { kind: 'ram', records: batch }
      if (missing > 0) await window.need(missing, what)
    }
  }

  /** Takes one record if it is there whole; otherwise says how many bytes are needed. */
  #next(): number {
    const window = this.#window
    if (window.length < 8) return 8
    const low = window.u32(4)
    const flags = low % this.#pageSize
    const offset = window.u32(0) * 2 ** 32 + (low - flags)
    if (flags === RAM_SAVE_FLAG_EOS) {
      window.skip(8)
      this.#ended = true
      return 0
    }
    if (flags === RAM_SAVE_FLAG_MULTIFD_FLUSH) {
      this.flushed = true
      window.skip(8)
      return 0
    }
    const named = Math.floor(flags / RAM_SAVE_FLAG_CONTINUE) % 2 === 0
    const kind = named ? flags : flags - RAM_SAVE_FLAG_CONTINUE
    let head = 8
    let block = this.#block
    if (named) {
      if (window.length < 9) return 9
      head = 9 + window.u8(8)
      if (window.length < head) return head
      block = this.#named(window.text(9, head - 9))
    }
    return this.#content(kind, block, offset, head)
  }

  #content(kind: number, block: number, offset: number, head: number): number {
    const window = this.#window
    const size = this.#pageSize
    if (block < 0) throw this.#fault('a page of no block')
    if (offset + size > this.blocks[block].usedLength) {
      throw this.#fault(`a page at ${offset}, behind the end of '${this.blocks[block].name}'`)
    }
    switch (kind) {
      case RAM_SAVE_FLAG_PAGE:
        if (window.length < head + size) return head + size
        this.#take(block, offset, 'page', head, size)
        return 0
      case RAM_SAVE_FLAG_ZERO: {
        if (window.length < head + 1) return head + 1
        const fill = window.u8(head)
        if (fill !== 0) this.#make(block, offset, new Uint8Array(size).fill(fill), head + 1)
        else {
          this.#take(block, offset, 'zero', head, 0)
          window.skip(1)
        }
        return 0
      }
      case RAM_SAVE_FLAG_XBZRLE: {
        if (window.length < head + 3) return head + 3
        const length = window.u16(head + 1)
        if (window.u8(head) !== 1) throw this.#fault('a compressed page (XBZRLE) of unknown kind')
        if (length > size) throw this.#fault(`a compressed page (XBZRLE) of ${length} bytes`)
        if (window.length < head + 3 + length) return head + 3 + length
        this.#take(block, offset, 'delta', head + 3, length)
        return 0
      }
      case RAM_SAVE_FLAG_COMPRESS_PAGE: {
        if (window.length < head + 4) return head + 4
        const length = window.u32(head)
        if (length > 2 * size) throw this.#fault(`a compressed page of ${length} bytes`)
        if (window.length < head + 4 + length) return head + 4 + length
        const page = this.#inflate(window.slice(head + 4, length))
        this.#make(block, offset, page, head + 4 + length)
        return 0
      }
      default:
        throw this.#fault(`a record with the flags 0x${kind.toString(16)}`)
    }
  }

  /** A record whose data is `length` bytes, `start` bytes from here. */
  #take(
    block: number,
    offset: number,
    kind: 'page' | 'zero' | 'delta',
    start: number,
    length: number,
  ): void {
    this.#block = block
    this.#batch.add(block, offset, kind, this.#window.start + start, length)
    this.#window.skip(start + length)
  }

  /** A page that was made of a record of `length` bytes. */
  #make(block: number, offset: number, page: Uint8Array, length: number): void {
    this.#block = block
    this.#batch.addApart(block, offset, page)
    this.#window.skip(length)
  }

  #named(name: string): number {
    const block = this.#byName.get(name)
    if (block === undefined) throw this.#fault('a page of a block that is not in the list')
    return block
  }

  #inflate(data: Uint8Array): Uint8Array {
    try {
      const page = inflateSync(data, { maxOutputLength: this.#pageSize })
      if (page.length === this.#pageSize) return page
    } catch (error) {
      throw this.#fault(`a compressed page: ${(error as Error).message}`)
    }
    throw this.#fault('a compressed page that is too short')
  }

  #fault(text: string): BlockError {
    const { name, offset } = this.#window
    return new BlockError('CORRUPT_IMAGE', `${name}: ${text}, at byte ${offset} of the stream`, {
      path: name,
      offset,
    })
  }
}
