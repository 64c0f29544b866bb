/**
 * Cuts the bytes of one client into requests. A payload that lies whole in what was received is
 * handed on where it lies; one that comes in parts is gathered in a buffer of its own.
 */
import { giveBack } from '../../bytes/give-back.ts'
import { viewOf } from '../../bytes/view.ts'
import { NBD_CMD_BLOCK_STATUS, NBD_CMD_WRITE } from '../../wire/nbd/constants.ts'
import type { Layout } from '../../wire/nbd/layout.ts'
import type { NbdRequest } from '../../wire/nbd/transmission.ts'
import { maxDrainedPayload, maxRequestLength, maxStatusPayload } from './limits.ts'
import type { Slab, SlabPool } from './slab.ts'

export interface RequestSink {
  /** Whether one more request may begin. When not, `proceed` is called later. */
  mayBegin(): boolean
  /**
   * `payload` is undefined when there is none, and when it was too long, or not wanted, and has
   * been dropped. The buffer is the sink's until it releases `slab`; without a slab until this
   * returns, or for good when it returns true.
   */
  request(request: NbdRequest, payload: Uint8Array | undefined, slab: Slab | undefined): boolean
  /** The client broke the protocol; nothing after this point makes sense. */
  violation(what: string): void
}

/** A payload that is still arriving. */
interface Arriving {
  readonly request: NbdRequest
  readonly length: number
  /** Where it goes; undefined when it is dropped. */
  readonly slab: Slab | undefined
  received: number
}

export class RequestReader {
  readonly #sink: RequestSink
  readonly #pool: SlabPool
  readonly #layout: Layout
  /** Received, but the sink is busy. */
  #waiting: Uint8Array[] = []
  readonly #header: Uint8Array
  readonly #headerView: DataView
  #headerLength = 0
  #arriving: Arriving | undefined
  /** Somebody keeps a part of the chunk that is being read. */
  #kept = false
  #stopped = false

  constructor(sink: RequestSink, pool: SlabPool, layout: Layout) {
    this.#sink = sink
    this.#pool = pool
    this.#layout = layout
    this.#header = new Uint8Array(layout.requestSize)
    this.#headerView = viewOf(this.#header)
  }

  /** Whether bytes wait for the sink: the time to stop receiving. */
  get waiting(): boolean {
    return this.#waiting.length > 0
  }

  /** Takes a chunk over, memory and all: its former owner finds it empty. */
  receive(chunk: Uint8Array): void {
    if (this.#stopped || chunk.length === 0) return
    if (this.waiting) {
      this.#waiting.push(chunk)
    } else {
      this.#kept = false
      this.#read(chunk)
      if (!this.#kept) giveBack(chunk)
    }
  }

  /** Goes on after the sink was busy. */
  proceed(): void {
    while (this.waiting && this.#sink.mayBegin()) this.#read(this.#waiting.shift()!)
  }

  /** Takes no further requests, and drops a payload that is still arriving. */
  stop(): void {
    this.#stopped = true
    this.#waiting = []
    if (this.#arriving?.slab) this.#pool.release(this.#arriving.slab)
    this.#arriving = undefined
  }

  #read(chunk: Uint8Array): void {
    const view = viewOf(chunk)
    const { requestSize } = this.#layout
    let at = 0
    while (at < chunk.length && !this.#stopped) {
      if (this.#arriving) {
        at += this.#gather(this.#arriving, chunk, at)
      } else if (!this.#sink.mayBegin()) {
        this.#waiting.unshift(chunk.subarray(at))
        this.#kept = true
        return
      } else if (this.#headerLength > 0 || chunk.length - at < requestSize) {
        at += this.#gatherHeader(chunk, at)
      } else {
        const request = this.#layout.decodeRequest(view, at)
        at = this.#begin(request, chunk, at + requestSize)
      }
    }
  }

  /** A header that is cut in two by the end of a chunk. */
  #gatherHeader(chunk: Uint8Array, at: number): number {
    const { requestSize } = this.#layout
    const part = chunk.subarray(at, at + requestSize - this.#headerLength)
    this.#header.set(part, this.#headerLength)
    this.#headerLength += part.length
    if (this.#headerLength < requestSize) return part.length
    this.#headerLength = 0
    const request = this.#layout.decodeRequest(this.#headerView, 0)
    return this.#begin(request, chunk, at + part.length) - at
  }

  /** Starts a request whose payload, if it has one, is at `at`. Returns where to go on. */
  #begin(request: NbdRequest | undefined, chunk: Uint8Array, at: number): number {
    if (request === undefined) {
      this.#sink.violation('a request without the magic number')
      return at
    }
    const length = this.#layout.payloadLength(request)
    if (length === 0) {
      this.#sink.request(request, undefined, undefined)
    } else if (length > maxDrainedPayload) {
      this.#sink.violation(`a payload of ${length} bytes, more than ${maxDrainedPayload}`)
    } else if (length > longestPayload(request)) {
      this.#arriving = { request, length, slab: undefined, received: 0 }
    } else if (length <= chunk.length - at) {
      const payload = chunk.subarray(at, at + length)
      if (this.#sink.request(request, payload, undefined)) this.#kept = true
      return at + length
    } else {
      this.#arriving = { request, length, slab: this.#pool.take(length), received: 0 }
    }
    return at
  }

  /** Takes what is there of an arriving payload. Returns how much that was. */
  #gather(arriving: Arriving, chunk: Uint8Array, at: number): number {
    const { request, slab } = arriving
    const length = Math.min(arriving.length - arriving.received, chunk.length - at)
    slab?.bytes.set(chunk.subarray(at, at + length), arriving.received)
    arriving.received += length
    if (arriving.received === arriving.length) {
      this.#arriving = undefined
      this.#sink.request(request, slab?.bytes.subarray(0, arriving.length), slab)
    }
    return length
  }
}

/** Longer payloads are dropped: of a command that has none, every one. */
function longestPayload({ type }: NbdRequest): number {
  if (type === NBD_CMD_WRITE) return maxRequestLength
  return type === NBD_CMD_BLOCK_STATUS ? maxStatusPayload : 0
}
