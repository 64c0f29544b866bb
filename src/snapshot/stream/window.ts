/**
 * The part of a stream that is in memory: filled by large reads, looked at and taken from the
 * front without waiting as long as enough is there.
 */
import { BlockError } from '../../errors.ts'

/** Where a stream comes from. Reads are made one after the other. */
export interface ByteSource {
  /** For messages. */
  readonly name: string
  /**
   * Puts at least one byte into `target` and says how many; 0 at the end. A source that answers at
   * once lets the event loop turn now and then.
   */
  read(target: Uint8Array): number | Promise<number>
}

/** Bytes; a pipe holds 64 KiB, or 1 MiB where it was enlarged. */
const usualSize = 1024 * 1024

/** Less room than this behind what is there, and it moves to the front. */
const leastRead = 256 * 1024

export class Window {
  readonly #source: ByteSource
  #buffer = new Uint8Array(usualSize)
  #view = new DataView(this.#buffer.buffer)
  #start = 0
  #end = 0
  #offset = 0
  #ended = false

  constructor(source: ByteSource) {
    this.#source = source
  }

  /** For messages. */
  get name(): string {
    return this.#source.name
  }

  /** Of the first byte, in the stream. */
  get offset(): number {
    return this.#offset
  }

  /** Bytes in memory. */
  get length(): number {
    return this.#end - this.#start
  }

  /** Where they lie: from `start` of `memory` on, until the next wait. */
  get memory(): Uint8Array {
    return this.#buffer
  }

  get start(): number {
    return this.#start
  }

  /** All of them; valid until the next wait. */
  get bytes(): Uint8Array {
    return this.#buffer.subarray(this.#start, this.#end)
  }

  u8(at: number): number {
    return this.#buffer[this.#start + at]
  }

  u16(at: number): number {
    return this.#view.getUint16(this.#start + at)
  }

  u32(at: number): number {
    return this.#view.getUint32(this.#start + at)
  }

  /** Up to 2^53; larger values are approximate, and larger than every limit. */
  u64(at: number): number {
    const view = this.#view
    return view.getUint32(this.#start + at) * 2 ** 32 + view.getUint32(this.#start + at + 4)
  }

  slice(at: number, length: number): Uint8Array {
    return this.#buffer.subarray(this.#start + at, this.#start + at + length)
  }

  text(at: number, length: number): string {
    return Buffer.from(this.slice(at, length)).toString('utf8')
  }

  skip(length: number): void {
    this.#start += length
    this.#offset += length
  }

  /** Removes bytes from the front; they are valid until the next wait. */
  take(length: number): Uint8Array {
    const bytes = this.slice(0, length)
    this.skip(length)
    return bytes
  }

  /** Waits until `length` bytes are there; `what` they are, for the message when they never come. */
  async need(length: number, what: string): Promise<void> {
    while (this.length < length) {
      if (await this.fill(length)) continue
      throw new BlockError(
        'CORRUPT_IMAGE',
        `${this.name}: the stream ends at byte ${this.#offset + this.length}, in ${what}`,
        { path: this.name, offset: this.#offset + this.length },
      )
    }
  }

  /** Reads once, with room for `length` bytes in all; false at the end of the stream. */
  async fill(length = 0): Promise<boolean> {
    if (this.#ended) return false
    this.#makeRoom(length)
    const count = await this.#source.read(this.#buffer.subarray(this.#end))
    if (count === 0) this.#ended = true
    this.#end += count
    return count > 0
  }

  #makeRoom(length: number): void {
    if (this.#start === this.#end) {
      this.#start = 0
      this.#end = 0
    }
    const missing = Math.max(leastRead, length - this.length)
    if (this.#buffer.length - this.#end >= missing) return
    const target =
      this.length + missing > this.#buffer.length
        ? new Uint8Array(Math.max(2 * this.#buffer.length, this.length + missing))
        : this.#buffer
    target.set(this.bytes)
    this.#end = this.length
    this.#start = 0
    this.#buffer = target
    this.#view = new DataView(target.buffer)
  }
}
