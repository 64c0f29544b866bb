/** A stream over descriptors of files: reads one, writes the other, closes both. */
import { close, fstatSync, read, write } from 'node:fs'
import { Socket } from 'node:net'
import { Duplex } from 'node:stream'

const chunkLength = 65536

/** Reads end where the file does. Absent descriptors are silent, or swallow. */
export class FileStream extends Duplex {
  readonly #input: number | undefined
  readonly #output: number

  constructor(output: number, input?: number) {
    super()
    this.#output = output
    this.#input = input
  }

  override _read(): void {
    if (this.#input === undefined) return
    read(this.#input, Buffer.alloc(chunkLength), 0, chunkLength, null, (error, length, bytes) => {
      if (error) this.destroy(error)
      else this.push(length === 0 ? null : bytes.subarray(0, length))
    })
  }

  override _write(bytes: Buffer, encoding: BufferEncoding, done: (error?: Error | null) => void) {
    write(this.#output, bytes, 0, bytes.length, null, (error, length) => {
      if (error || length === bytes.length) done(error)
      else this._write(bytes.subarray(length), encoding, done)
    })
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    const descriptors = new Set([this.#output, ...(this.#input === undefined ? [] : [this.#input])])
    for (const fd of descriptors) close(fd, () => {})
    done(error)
  }
}

/**
 * Pipes are read and written as they become ready, since a read that waits would keep a thread of
 * the pool, and the program's end, waiting.
 */
export function streamOf(input: number, output: number): Duplex {
  if (!fstatSync(input).isFIFO()) return new FileStream(output, input)
  if (input === output) return new Socket({ fd: input, readable: true, writable: true })
  return Duplex.from({
    readable: new Socket({ fd: input, readable: true, writable: false }),
    writable: new Socket({ fd: output, readable: false, writable: true }),
  })
}
