/**
 * A stream over a descriptor that never waits, looked at now and then: Node can wait for pipes and
 * sockets, and for terminals only at the end that people sit at.
 */
import { readSync, writeSync } from 'node:fs'
import { Duplex } from 'node:stream'
import { errnoOf } from '../../errors.ts'

const pollMs = 20
const chunkLength = 4096

/** Bytes that were there; undefined when there are none yet, `gone` when nobody is at the other end. */
export function readNow(fd: number): Uint8Array | undefined | 'gone' {
  const bytes = new Uint8Array(chunkLength)
  try {
    const length = readSync(fd, bytes)
    return length === 0 ? 'gone' : bytes.subarray(0, length)
  } catch (error) {
    return errnoOf(error) === 'EAGAIN' ? undefined : 'gone'
  }
}

/** Ends when nobody is at the other end. Leaves the descriptor open. */
export class PolledStream extends Duplex {
  readonly #fd: number
  readonly #timer: NodeJS.Timeout
  #wanted = false
  #unwritten: { bytes: Uint8Array; readonly done: (error?: Error | null) => void } | undefined

  constructor(fd: number) {
    super()
    this.#fd = fd
    this.#timer = setInterval(() => this.#look(), pollMs)
    this.#timer.unref()
  }

  override _read(): void {
    this.#wanted = true
  }

  override _write(bytes: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    this.#unwritten = { bytes, done }
    this.#writeSome()
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    clearInterval(this.#timer)
    done(error)
  }

  #look(): void {
    this.#writeSome()
    while (this.#wanted) {
      const bytes = readNow(this.#fd)
      if (!bytes) return
      this.#wanted = false
      if (bytes === 'gone') clearInterval(this.#timer)
      this.push(bytes === 'gone' ? null : bytes)
    }
  }

  #writeSome(): void {
    while (this.#unwritten) {
      const { bytes, done } = this.#unwritten
      try {
        const length = writeSync(this.#fd, bytes)
        this.#unwritten.bytes = bytes.subarray(length)
        if (length < bytes.length) continue
        this.#unwritten = undefined
        done()
      } catch (error) {
        if (errnoOf(error) === 'EAGAIN') return
        this.#unwritten = undefined
        done(error as Error)
      }
    }
  }
}
