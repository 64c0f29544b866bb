/** A regular file: large reads go straight to the caller, small ones come from a buffer. */
import { KiB, MiB } from '../../../bytes/range.ts'
import { systemError } from '../../../errors.ts'
import { closeDescriptor, readFully } from './descriptor.ts'
import type { ArchiveSource, RandomAccess } from './source.ts'

/** Reads below this length are served from a buffer of this length. */
const bufferSize = 256 * KiB

export class FileSource implements ArchiveSource, RandomAccess {
  readonly name: string
  readonly size: number
  readonly random: RandomAccess = this
  readonly #fd: number
  // What was read ahead: bytes from #ahead to #filled of the buffer come next.
  readonly #buffer = Buffer.alloc(bufferSize)
  #ahead = 0
  #filled = 0
  #offset = 0
  /** Reads under way; the descriptor is closed after them. */
  readonly #reads = new Set<Promise<number>>()
  #closed = false

  /** Takes over `fd`. */
  constructor(name: string, fd: number, size: number) {
    this.name = name
    this.#fd = fd
    this.size = size
  }

  async readAt(offset: number, target: Uint8Array): Promise<number> {
    const reading = readFully(this.#fd, target, offset)
    this.#reads.add(reading)
    try {
      return await reading
    } catch (error) {
      throw systemError(error, `Could not read '${this.name}'`, { path: this.name, offset })
    } finally {
      this.#reads.delete(reading)
    }
  }

  async read(target: Uint8Array): Promise<number> {
    if (this.#closed) return 0
    const ready = this.#takeAhead(target)
    if (ready === target.length) return ready
    const rest = target.subarray(ready)
    if (rest.length >= bufferSize) return ready + (await this.#advance(rest))
    this.#ahead = 0
    this.#filled = await this.#advance(this.#buffer)
    return ready + this.#takeAhead(rest)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await Promise.allSettled(this.#reads)
    await closeDescriptor(this.#fd)
  }

  #takeAhead(target: Uint8Array): number {
    const copied = this.#buffer.copy(target, 0, this.#ahead, this.#filled)
    this.#ahead += copied
    return copied
  }

  async #advance(target: Uint8Array): Promise<number> {
    const count = await this.readAt(this.#offset, target)
    this.#offset += count
    return count
  }
}

/** Length of the pieces in which a file is fed to a decoder. */
const chunkSize = 1 * MiB

/** All bytes in order. Each chunk has memory of its own. */
export async function* chunksOf(file: RandomAccess): AsyncGenerator<Buffer> {
  for (let offset = 0; ; offset += chunkSize) {
    const chunk = Buffer.allocUnsafeSlow(chunkSize)
    const count = await file.readAt(offset, chunk)
    if (count > 0) yield chunk.subarray(0, count)
    if (count < chunkSize) return
  }
}
