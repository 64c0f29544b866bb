/**
 * Pages of guest memory that the device has written to, a bit each, for a client that sends its guest to
 * another machine meanwhile. It clears bits while we set them, so they are set by atomic operations on
 * the memory itself, which is safe in memory that is sealed against becoming shorter, as QEMU's is.
 */
import { fstatSync } from 'node:fs'
import { alignDown, alignUp } from '../../bytes/range.ts'
import type { SharedMemorySys } from '../../sys/shared-memory.ts'
import { logPage } from '../../wire/vhost-user/messages.ts'
import { broken } from './guest-memory.ts'
import { maxLogLength } from './limits.ts'

const page = 65_536

export class DirtyLog implements Disposable {
  readonly #sys: SharedMemorySys
  readonly #mapping: { readonly address: number; readonly length: number }
  readonly #bytes: Uint8Array

  /** The descriptor stays the caller's. Throws `PEER` where the log cannot be written safely. */
  constructor(sys: SharedMemorySys, fd: number, offset: number, length: number) {
    if (!(length > 0 && length <= maxLogLength && Number.isSafeInteger(offset + length))) {
      throw broken(`a log of dirty pages of ${length} bytes`)
    }
    if (!sys.cannotShrink(fd)) throw broken('a log of dirty pages that is not sealed')
    if (fstatSync(fd).size < offset + length) throw broken('a log of dirty pages is cut off')
    const start = alignDown(offset, page)
    const whole = alignUp(offset + length, page) - start
    this.#sys = sys
    this.#mapping = { address: sys.map(fd, start, whole), length: whole }
    this.#bytes = sys.view(this.#mapping.address + offset - start, length)
  }

  /** What lies behind the log's end is not logged. */
  mark(guest: number, length: number): void {
    if (length === 0) return
    const last = Math.floor((guest + length - 1) / logPage)
    for (let index = Math.floor(guest / logPage); index <= last; index++) {
      const at = Math.floor(index / 8)
      if (at >= this.#bytes.length) return
      Atomics.or(this.#bytes, at, 1 << (index % 8))
    }
  }

  [Symbol.dispose](): void {
    this.#sys.unmap(this.#mapping.address, this.#mapping.length)
  }
}
