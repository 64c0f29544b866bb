/** An archive into an open descriptor or a device: bytes in order, one write at a time. */
import { systemError } from '../../../errors.ts'
import { closeDescriptor, writeFully } from './descriptor.ts'
import type { ArchiveSink } from './sink.ts'

export class DescriptorSink implements ArchiveSink {
  readonly #fd: number
  readonly #name: string
  #previous: Promise<void> = Promise.resolve()
  #closed = false

  /** Takes over `fd` and closes it. */
  constructor(fd: number, name: string) {
    this.#fd = fd
    this.#name = name
  }

  write(bytes: Uint8Array): Promise<void> {
    const written = this.#previous.then(() => writeFully(this.#fd, bytes, null))
    this.#previous = written
    return written.catch((error) => {
      throw this.#wrap(error)
    })
  }

  async finish(): Promise<void> {
    this.#closed = true
    await closeDescriptor(this.#fd).catch((error) => {
      throw this.#wrap(error)
    })
  }

  async abort(): Promise<void> {
    await this.#previous.catch(() => {})
    if (this.#closed) return
    this.#closed = true
    await closeDescriptor(this.#fd).catch(() => {})
  }

  #wrap(error: unknown): unknown {
    return systemError(error, `Could not write '${this.#name}'`, { path: this.#name })
  }
}
