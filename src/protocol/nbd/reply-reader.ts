/**
 * Cuts the bytes of a server into replies. Data goes from the received chunk straight to where the
 * caller wants it; everything else is small, bounded, and gathered first.
 */
import { viewOf } from '../../bytes/view.ts'
import { BlockError } from '../../errors.ts'
import { NBD_REPLY_TYPE_OFFSET_DATA, NBD_SIMPLE_REPLY_MAGIC } from '../../wire/nbd/constants.ts'
import type { Layout } from '../../wire/nbd/layout.ts'
import {
  type ChunkHeader,
  type Cookie,
  decodeSimpleReply,
  decodeU64,
  simpleReplySize,
} from '../../wire/nbd/transmission.ts'
import { maxChunkPayload } from './limits.ts'

/** Where data goes, piece by piece. */
export interface DataTarget {
  /** Takes the bytes at `at` behind the start of the run. */
  take(at: number, bytes: Uint8Array): void
  /** The run is complete. */
  done(): void
}

/** All of them throw `PEER` when the reply does not fit the request, or there is none. */
export interface ReplySink {
  /** Returns how many bytes of data follow, and to where. */
  simple(cookie: Cookie, error: number): { length: number; target: DataTarget } | undefined
  /** A chunk of NBD_REPLY_TYPE_OFFSET_DATA. */
  data(header: ChunkHeader, offset: number, length: number): DataTarget
  /** Any other chunk, with its payload. */
  chunk(header: ChunkHeader, payload: Uint8Array): void
}

/** What is being gathered, and what to do when it is complete. */
interface Gathering {
  readonly length: number
  readonly complete: (bytes: Uint8Array) => void
}

const magicSize = 4
const dataOffsetSize = 8

export class ReplyReader {
  readonly #sink: ReplySink
  readonly #layout: Layout
  #gathering: Gathering
  #buffer: Uint8Array
  #filled = 0
  /** Data on its way to the caller. */
  #data: { readonly target: DataTarget; readonly length: number; at: number } | undefined

  constructor(sink: ReplySink, layout: Layout) {
    this.#sink = sink
    this.#layout = layout
    this.#buffer = new Uint8Array(layout.chunkHeaderSize)
    this.#gathering = this.#begin()
  }

  /** Throws `PEER` at the first byte that makes no sense; nothing may be received afterwards. */
  receive(chunk: Uint8Array): void {
    let at = 0
    while (at < chunk.length) {
      at += this.#data ? this.#pass(this.#data, chunk, at) : this.#gather(chunk, at)
    }
  }

  #pass(
    data: { readonly target: DataTarget; readonly length: number; at: number },
    chunk: Uint8Array,
    at: number,
  ): number {
    const length = Math.min(data.length - data.at, chunk.length - at)
    data.target.take(data.at, chunk.subarray(at, at + length))
    data.at += length
    if (data.at === data.length) {
      this.#data = undefined
      data.target.done()
    }
    return length
  }

  #gather(chunk: Uint8Array, at: number): number {
    const { length, complete } = this.#gathering
    const part = chunk.subarray(at, at + length - this.#filled)
    this.#buffer.set(part, this.#filled)
    this.#filled += part.length
    if (this.#filled === length) complete(this.#buffer.subarray(0, length))
    return part.length
  }

  /** The start of a reply; its magic number says how long the header is. */
  #begin(): Gathering {
    return { length: magicSize, complete: (bytes) => this.#magic(viewOf(bytes).getUint32(0)) }
  }

  #next(): void {
    this.#filled = 0
    this.#gathering = this.#begin()
  }

  /** Goes on gathering, behind what has been gathered. */
  #more(length: number, complete: (bytes: Uint8Array) => void): void {
    if (length > this.#buffer.length) {
      const larger = new Uint8Array(length)
      larger.set(this.#buffer.subarray(0, this.#filled))
      this.#buffer = larger
    }
    this.#gathering = { length, complete }
    if (this.#filled === length) complete(this.#buffer.subarray(0, length))
  }

  #magic(magic: number): void {
    const { chunkMagic, chunkHeaderSize, extended } = this.#layout
    if (magic === chunkMagic) {
      this.#more(chunkHeaderSize, (bytes) => this.#chunk(bytes))
    } else if (magic === NBD_SIMPLE_REPLY_MAGIC && !extended) {
      this.#more(simpleReplySize, (bytes) => this.#simple(bytes))
    } else {
      throw new BlockError('PEER', `invalid reply magic 0x${magic.toString(16)}`, { errno: 'EIO' })
    }
  }

  #simple(bytes: Uint8Array): void {
    const reply = decodeSimpleReply(viewOf(bytes), 0)
    const data = this.#sink.simple(reply, reply.error)
    this.#next()
    if (data) this.#expectData(data.target, data.length)
  }

  #chunk(bytes: Uint8Array): void {
    const header = this.#layout.decodeChunkHeader(viewOf(bytes), 0)
    if (header.type === NBD_REPLY_TYPE_OFFSET_DATA) this.#dataChunk(header)
    else this.#smallChunk(header)
  }

  #smallChunk(header: ChunkHeader): void {
    if (header.length > maxChunkPayload) {
      const { type, length } = header
      throw new BlockError('PEER', `a chunk of type ${type} with ${length} bytes is too long`, {
        errno: 'EIO',
      })
    }
    const { chunkHeaderSize } = this.#layout
    this.#more(chunkHeaderSize + header.length, (whole) => {
      const payload = whole.slice(chunkHeaderSize)
      this.#next()
      this.#sink.chunk(header, payload)
    })
  }

  #dataChunk(header: ChunkHeader): void {
    if (header.length <= dataOffsetSize) {
      throw new BlockError('PEER', 'a data chunk without data', { errno: 'EIO' })
    }
    const { chunkHeaderSize } = this.#layout
    this.#more(chunkHeaderSize + dataOffsetSize, (whole) => {
      const offset = decodeU64(viewOf(whole), chunkHeaderSize)
      const length = header.length - dataOffsetSize
      const target = this.#sink.data(header, offset, length)
      this.#next()
      this.#expectData(target, length)
    })
  }

  #expectData(target: DataTarget, length: number): void {
    if (length === 0) target.done()
    else this.#data = { target, length, at: 0 }
  }
}
