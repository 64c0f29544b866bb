/** An archive into a Node stream: stdout, a pipe, the input of a command. */
import type { Writable } from 'node:stream'
import { finished } from 'node:stream/promises'
import { systemError } from '../../../errors.ts'
import type { ArchiveSink } from './sink.ts'

export interface StreamSinkOptions {
  /** For messages: `standard output`, a path, a command. */
  readonly name: string
  /** Whether the stream ends with the archive. Standard output stays open. */
  readonly end: boolean
}

export class StreamSink implements ArchiveSink {
  readonly #stream: Writable
  readonly #options: StreamSinkOptions
  #error: unknown

  constructor(stream: Writable, options: StreamSinkOptions) {
    this.#stream = stream
    this.#options = options
    // Every write reports its error to its own callback; this one only keeps Node from throwing.
    stream.on('error', this.#remember)
  }

  async write(bytes: Uint8Array): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#stream.write(bytes, (error) => (error ? reject(this.#wrap(error)) : resolve()))
    })
  }

  async finish(): Promise<void> {
    if (this.#options.end) {
      this.#stream.end()
      await finished(this.#stream, { readable: false }).catch(this.#remember)
    }
    if (this.#error) throw this.#wrap(this.#error)
    this.#stream.off('error', this.#remember)
  }

  async abort(): Promise<void> {
    if (this.#options.end) this.#stream.destroy()
  }

  readonly #remember = (error: unknown) => {
    this.#error ??= error
  }

  #wrap(error: unknown): unknown {
    return systemError(error, `Could not write to ${this.#options.name}`)
  }
}
