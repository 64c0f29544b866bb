/** Exact lengths out of a stream that comes in pieces of any size. */
import { BlockError, systemError } from '../../../errors.ts'
import type { ArchiveSource, Chunks } from './source.ts'

export interface ChunkReaderEnds {
  /** Called first on disposal: lets a read that is under way fail. */
  abort?(): void
  /** Called last on disposal, when nothing is read any more. */
  close?(): Promise<void>
}

export class ChunkReader implements ArchiveSource {
  readonly name: string
  readonly #chunks: AsyncIterator<Uint8Array>
  readonly #ends: ChunkReaderEnds
  #chunk: Uint8Array = new Uint8Array()
  /** Bytes handed out so far. */
  #offset = 0
  #ended = false

  /** Ends `chunks` when it is disposed. */
  constructor(name: string, chunks: Chunks, ends: ChunkReaderEnds = {}) {
    this.name = name
    this.#chunks = chunks[Symbol.asyncIterator]()
    this.#ends = ends
  }

  /** Makes a read that waits for somebody else fail. */
  abort(): void {
    this.#ends.abort?.()
  }

  get offset(): number {
    return this.#offset
  }

  async read(target: Uint8Array): Promise<number> {
    let done = 0
    while (done < target.length && (await this.#fill())) {
      const part = this.#take(target.length - done)
      target.set(part, done)
      done += part.length
    }
    return done
  }

  /** The next `length` bytes in memory of their own, or fewer at the end. For small lengths. */
  async take(length: number): Promise<Buffer> {
    const bytes = Buffer.alloc(length)
    return bytes.subarray(0, await this.read(bytes))
  }

  /** The next `length` bytes, or fewer at the end, as they come and without a copy. */
  async *pass(length: number): AsyncGenerator<Uint8Array> {
    for (let left = length; left > 0 && (await this.#fill()); ) {
      const part = this.#take(left)
      left -= part.length
      yield part
    }
  }

  /** Up to `length` bytes from the start of the stream, without taking them. */
  async peek(length: number): Promise<Uint8Array> {
    const head = await this.take(length)
    const chunk = new Uint8Array(head.length + this.#chunk.length)
    chunk.set(head)
    chunk.set(this.#chunk, head.length)
    this.#chunk = chunk
    this.#offset -= head.length
    return head
  }

  /** All that is left. */
  async *rest(): AsyncGenerator<Uint8Array> {
    while (await this.#fill()) yield this.#take(this.#chunk.length)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended = true
    this.abort()
    await this.#chunks.return?.()
    await this.#ends.close?.()
  }

  #take(length: number): Uint8Array {
    const part = this.#chunk.subarray(0, length)
    this.#chunk = this.#chunk.subarray(part.length)
    this.#offset += part.length
    return part
  }

  /** Sees to it that there is something to take; false at the end. */
  async #fill(): Promise<boolean> {
    while (this.#chunk.length === 0) {
      if (this.#ended) return false
      const next = await this.#next()
      if (next.done) this.#ended = true
      else this.#chunk = next.value
    }
    return true
  }

  async #next(): Promise<IteratorResult<Uint8Array>> {
    try {
      return await this.#chunks.next()
    } catch (error) {
      this.#ended = true
      throw asReadError(error, this.name)
    }
  }
}

/** Aborts pass through; a decoder's complaint means damaged input, all else a failing system. */
function asReadError(error: unknown, name: string): unknown {
  if (error instanceof BlockError) return error
  if (!(error instanceof Error) || error.name === 'AbortError') return error
  const code = 'code' in error && typeof error.code === 'string' ? error.code : ''
  if (/^(Z_|ZSTD_|ERR_ZLIB|ERR_BUFFER_TOO_LARGE)/.test(code)) {
    return new BlockError('CORRUPT_IMAGE', `'${name}' cannot be decompressed: ${error.message}`, {
      path: name,
      cause: error,
    })
  }
  return systemError(error, `Could not read '${name}'`, { path: name })
}
