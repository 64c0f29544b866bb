/**
 * Flushes, as few as suffice: none where nothing was written since the last, and one for all
 * callers that ask while another is running.
 */
import fs from 'node:fs'
import { promisify } from 'node:util'
import type { Completion } from '../../block/layer.ts'
import { BlockError } from '../../errors.ts'
import type { OpenFile } from './open-file.ts'

const fdatasync = promisify(fs.fdatasync)

export class Flusher {
  readonly #file: OpenFile
  /** Counts writes, so that a flush knows which ones it covers. */
  #written = 0
  #flushed = 0
  #running: Promise<void> | undefined
  #queued: Promise<void> | undefined
  #failure: unknown

  constructor(file: OpenFile) {
    this.#file = file
  }

  /** A write has settled. */
  wrote(): void {
    this.#written++
  }

  /** Everything that settled before is on the disk afterwards. */
  flush(): Completion {
    if (this.#failure !== undefined) throw this.#poisoned()
    if (this.#flushed === this.#written) return
    this.#queued ??= this.#afterRunning()
    return this.#queued
  }

  async #afterRunning(): Promise<void> {
    await this.#running?.catch(() => {})
    this.#queued = undefined
    if (this.#failure !== undefined) throw this.#poisoned()
    this.#running = this.#sync()
    return this.#running
  }

  async #sync(): Promise<void> {
    const covered = this.#written
    try {
      await this.#file.during(fdatasync)
      this.#flushed = covered
    } catch (error) {
      this.#failure = error
      throw this.#file.fail(error, 'flushing')
    }
  }

  /**
   * After a failed fdatasync the kernel may have dropped the dirty pages and says "success" the
   * next time; only this layer remembers that data is missing.
   */
  #poisoned(): BlockError {
    const { path, node } = this.#file
    return new BlockError(
      'IO',
      `An earlier flush of ${path} failed, so nobody knows what reached the disk; reopen it to go on`,
      { path, node, cause: this.#failure },
    )
  }
}
