/**
 * Standard output and error that are written at once and in full, so nothing is lost when the
 * process ends, and starting up is spared Node's own streams. A reader that has gone away ends the
 * output quietly: the work goes on, as it does for QEMU's tools.
 */
import { writeSync } from 'node:fs'
import { errnoOf } from '../errors.ts'
import type { TextOutput } from './command.ts'

export class DescriptorOutput implements TextOutput {
  readonly fd: number
  #gone = false

  constructor(fd: number) {
    this.fd = fd
  }

  /** Whether the reader has gone away. */
  get gone(): boolean {
    return this.#gone
  }

  write(text: string | Uint8Array, done: (error?: Error | null) => void = rethrow): boolean {
    try {
      let left = typeof text === 'string' ? Buffer.from(text) : text
      while (left.length > 0 && !this.#gone) left = left.subarray(this.#writeSome(left))
      done()
    } catch (error) {
      done(error as Error)
    }
    return true
  }

  #writeSome(bytes: Uint8Array): number {
    try {
      return writeSync(this.fd, bytes)
    } catch (error) {
      const errno = errnoOf(error)
      if (errno === 'EAGAIN') pause()
      else if (errno === 'EPIPE') this.#gone = true
      else throw error
      return 0
    }
  }
}

function rethrow(error?: Error | null): void {
  if (error) throw error
}

const pauseMs = 5

/** Lets the reader of a full, non-blocking pipe catch up. */
function pause(): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, pauseMs)
}
