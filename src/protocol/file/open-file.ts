/** An open file or device: its descriptor, what is known about it, and the requests in flight. */
import fs from 'node:fs'
import { promisify } from 'node:util'
import { BlockError, systemError } from '../../errors.ts'
import type { Sys } from '../../sys/sys.ts'

const openFd = promisify(fs.open)
const closeFd = promisify(fs.close)
const fstat = promisify(fs.fstat)

export interface FileNames {
  readonly path: string
  /** Name of the graph node, for messages. */
  readonly node: string
}

export class OpenFile implements FileNames {
  readonly path: string
  readonly node: string
  readonly sys: Sys
  #fd: number
  #closing: Promise<void> | undefined
  /** Requests in the thread pool: the descriptor must not be closed, and reused, under them. */
  #inFlight = 0
  #whenIdle: (() => void) | undefined

  private constructor(fd: number, names: FileNames, sys: Sys) {
    this.#fd = fd
    this.path = names.path
    this.node = names.node
    this.sys = sys
  }

  /** `flags` as open(2) takes them. Throws a system error untouched. */
  static async open(names: FileNames, flags: number, sys: Sys): Promise<OpenFile> {
    return new OpenFile(await openFd(names.path, flags, 0o644), names, sys)
  }

  /** Throws `CLOSED` after `close`. */
  get fd(): number {
    if (this.#fd < 0) throw new BlockError('CLOSED', `${this.path} is closed`, this.#place())
    return this.#fd
  }

  /** Runs a call in the thread pool; the file stays open until `done` is called. */
  enter(): number {
    const fd = this.fd
    this.#inFlight++
    return fd
  }

  leave(): void {
    this.#inFlight--
    if (this.#inFlight === 0) this.#whenIdle?.()
  }

  /** Keeps the file open while `work` runs. */
  async during<T>(work: (fd: number) => Promise<T>): Promise<T> {
    const fd = this.enter()
    try {
      return await work(fd)
    } finally {
      this.leave()
    }
  }

  /**
   * Opens the same file with other flags in the place of this descriptor; nothing is in flight.
   * `settle` gets both before the former is closed. Whatever fails leaves the former in place.
   */
  async reopen(flags: number, settle: (former: number, next: number) => void): Promise<void> {
    const former = this.fd
    const next = await openFd(this.path, flags, 0o644)
    try {
      const [before, after] = await Promise.all([fstat(former), fstat(next)])
      if (before.dev !== after.dev || before.ino !== after.ino) {
        throw new BlockError('IO', `${this.path} is another file by now`, this.#place())
      }
      settle(former, next)
    } catch (error) {
      await closeFd(next)
      throw error
    }
    this.#fd = next
    await closeFd(former)
  }

  /** A `BlockError` that says what was being done to which file. */
  fail(error: unknown, doing: string, offset?: number): BlockError {
    const where = offset === undefined ? '' : ` at ${offset}`
    return systemError(error, `${doing}${where} in ${this.path}`, { ...this.#place(), offset })
  }

  /** Waits for the requests in flight. The system lets go of the image locks with the file. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    const fd = this.#fd
    this.#fd = -1
    if (this.#inFlight > 0) await new Promise<void>((resolve) => (this.#whenIdle = resolve))
    try {
      await closeFd(fd)
    } catch (error) {
      throw this.fail(error, 'closing')
    }
  }

  #place() {
    return { node: this.node, path: this.path }
  }
}
