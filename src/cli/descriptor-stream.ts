/**
 * Standard output and error that are written at once and in full, so nothing is lost when the
 * process ends, and starting up is spared Node's own streams. A reader that has gone away ends the
 * output quietly: the work goes on, as it does for QEMU's tools.
 */
import { writeSync } from 'node:fs'
import { Writable } from 'node:stream'
import { isatty } from 'node:tty'
import { errnoOf } from '../errors.ts'

export class DescriptorStream extends Writable {
  readonly fd: number
  #gone = false

  constructor(fd: number) {
    super({ decodeStrings: true })
    this.fd = fd
  }

  /** Whether the reader has gone away. */
  get gone(): boolean {
    return this.#gone
  }

  get isTTY(): boolean {
    return isatty(this.fd)
  }

  override _write(
    bytes: Buffer,
    _encoding: BufferEncoding,
    done: (error?: Error | null) => void,
  ): void {
    try {
      for (let left = bytes; left.length > 0 && !this.#gone; ) {
        left = left.subarray(this.#writeSome(left))
      }
      done()
    } catch (error) {
      done(error as Error)
    }
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

const pauseMs = 5

/** Lets the reader of a full, non-blocking pipe catch up. */
function pause(): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, pauseMs)
}
