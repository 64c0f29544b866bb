/** `ringbuf`: the last bytes written, to be read and written by commands. */

import { Duplex } from 'node:stream'
import { MiB } from '../../bytes/range.ts'
import { invalid, unsupported } from '../../errors.ts'
import type { Chardev, ChardevData } from './chardev.ts'
import { SingleStream } from './single-stream.ts'

const usualSize = 65536
/** A buffer is made whole. */
const maxSize = 64 * MiB

/** `filename` is what QEMU calls the device, `ringbuf` or, for old command lines, `memory`. */
export function openRingBuffer(filename: string, { size = usualSize }: ChardevData<'ringbuf'>) {
  const isPowerOfTwo = size === 0 || (size > 0 && Number.isInteger(Math.log2(size)))
  if (!isPowerOfTwo) throw invalid('size of ringbuf chardev must be power of two')
  if (size > maxSize) throw unsupported(`a ringbuf chardev has at most ${maxSize} bytes`)
  return new RingBufferDevice(filename, new RingBuffer(size))
}

class RingBufferDevice extends SingleStream implements Chardev {
  readonly ring: RingBuffer

  constructor(filename: string, ring: RingBuffer) {
    super(filename, new RingBufferStream(ring))
    this.ring = ring
  }
}

/** Its user writes only: nothing that commands write comes to it, as in QEMU. */
class RingBufferStream extends Duplex {
  readonly #ring: RingBuffer

  constructor(ring: RingBuffer) {
    super()
    this.#ring = ring
  }

  override _read(): void {}

  override _write(bytes: Buffer, _encoding: string, done: () => void): void {
    this.#ring.write(bytes)
    done()
  }
}

export class RingBuffer {
  readonly #bytes: Uint8Array
  #start = 0
  #length = 0

  constructor(size: number) {
    this.#bytes = new Uint8Array(size)
  }

  /** What does not fit drives out what is oldest. */
  write(bytes: Uint8Array): void {
    const size = this.#bytes.length
    if (size === 0) return
    for (const byte of bytes.subarray(Math.max(0, bytes.length - size))) {
      this.#bytes[(this.#start + this.#length) % size] = byte
      if (this.#length < size) this.#length++
      else this.#start = (this.#start + 1) % size
    }
  }

  /** Takes out the oldest bytes, at most so many. */
  read(length: number): Uint8Array {
    const size = this.#bytes.length
    const result = new Uint8Array(Math.min(length, this.#length))
    for (const index of result.keys()) result[index] = this.#bytes[(this.#start + index) % size]
    this.#start = size === 0 ? 0 : (this.#start + result.length) % size
    this.#length -= result.length
    return result
  }
}
