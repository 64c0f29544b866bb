/**
 * Standard output and error without Node's own streams, whose making costs time at the start. As the
 * library of C has it, and thereby QEMU's tools: errors are written at once; output that no terminal
 * shows is gathered and written in blocks, so in a file that both go to, errors stand in front of what
 * was printed before them. A reader that has gone away, or a full disk, ends the output quietly: the
 * work goes on.
 */
import { fstatSync, writeSync } from 'node:fs'
import { errnoOf } from '../errors.ts'
import type { TextOutput } from './command.ts'

/** Of the library of C, for pipes and files alike. */
const blockSize = 4096

export class DescriptorOutput implements TextOutput {
  readonly fd: number
  readonly #gathers: boolean
  #gathered: Uint8Array = new Uint8Array(0)
  #gone = false

  constructor(fd: number, { gathers = false }: { readonly gathers?: boolean } = {}) {
    this.fd = fd
    this.#gathers = gathers
  }

  /** Standard output: gathered unless a terminal, or what looks like one, takes it. */
  static stdout(): DescriptorOutput {
    return new DescriptorOutput(1, { gathers: !fstatSync(1).isCharacterDevice() })
  }

  /** Whether nobody takes the output any more. */
  get gone(): boolean {
    return this.#gone
  }

  /** Whoever passes `done` wants to know what became of it: all that was written is out by then. */
  write(text: string | Uint8Array, done?: (error?: Error | null) => void): boolean {
    const bytes = typeof text === 'string' ? Buffer.from(text) : text
    try {
      if (done) {
        this.flush()
        this.#writeAll(bytes)
      } else {
        this.#add(bytes)
      }
    } catch (error) {
      this.#gone = true
      if (done) return done(error as Error) ?? true
    }
    done?.()
    return true
  }

  /** Writes out what has been gathered. */
  flush(): void {
    const bytes = this.#gathered
    this.#gathered = new Uint8Array(0)
    try {
      this.#writeAll(bytes)
    } catch {
      this.#gone = true
    }
  }

  #add(bytes: Uint8Array): void {
    if (!this.#gathers) {
      this.#writeAll(bytes)
      return
    }
    const all = this.#gathered.length === 0 ? bytes : Buffer.concat([this.#gathered, bytes])
    // The last block stays, even when it is full.
    const full = Math.max(0, Math.ceil(all.length / blockSize) - 1) * blockSize
    this.#gathered = all.subarray(full)
    if (full > 0) this.#writeAll(all.subarray(0, full))
  }

  #writeAll(bytes: Uint8Array): void {
    let left = bytes
    while (left.length > 0 && !this.#gone) left = left.subarray(this.#writeSome(left))
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
