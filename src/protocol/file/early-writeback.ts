/**
 * What a job writes will be flushed at its end. So it is sent to the disk while the job goes on,
 * instead of all at once while everybody waits: guests who flush meanwhile, too.
 */
import { MiB } from '../../bytes/range.ts'
import type { OpenFile } from './open-file.ts'

/** Bytes that are sent together: enough for long transfers, little for a disk to have in its queue. */
const portion = 16 * MiB

export class EarlyWriteback {
  readonly #file: OpenFile
  #bytes = 0
  #start = Number.POSITIVE_INFINITY
  #end = 0
  #busy = false

  constructor(file: OpenFile) {
    this.#file = file
  }

  /** A job is about to write there, through the page cache. */
  writes(offset: number, length: number): void {
    if (this.#bytes >= portion && !this.#busy) this.#send()
    this.#bytes += length
    this.#start = Math.min(this.#start, offset)
    this.#end = Math.max(this.#end, offset + length)
  }

  #send(): void {
    const file = this.#file
    const [start, length] = [this.#start, this.#end - this.#start]
    this.#bytes = 0
    this.#start = Number.POSITIVE_INFINITY
    this.#end = 0
    this.#busy = true
    // Owned by the file, which is not closed before; it never fails.
    void file
      .during((fd) => file.sys.startWriteback(fd, start, length))
      .finally(() => {
        this.#busy = false
      })
  }
}
