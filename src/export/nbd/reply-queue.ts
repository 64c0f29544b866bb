/**
 * The way back to one client. A reply is reserved first, so that data is read to the place from
 * where it is sent, beside its header; it is sent when it is complete, in any order. Replies of
 * one turn leave in one write: neighbours in a slab as one piece, others as one gathered write.
 *
 * A socket that enciphers does so with all that it is given at once, before the first byte leaves,
 * in fresh memory as large. Such a one gets pieces, the next when the last has left.
 *
 * `heldBytes` is what a client that does not read costs; whoever reserves keeps it in bounds.
 */
import type { Writable } from 'node:stream'
import { flushLength, maxBytesInFlight, maxEnciphered, slabLength } from './limits.ts'
import type { Slab, SlabPool } from './slab.ts'

/** Room for one reply. */
export interface Reservation {
  readonly slab: Slab
  readonly start: number
  /** Bytes reserved. */
  readonly length: number
}

/** Replies that lie one behind the other and are ready. */
interface Run {
  readonly slab: Slab
  readonly start: number
  end: number
  /** Reservations in it. */
  count: number
  /** Bytes that were reserved for it. */
  held: number
}

export interface ReplyQueueOptions {
  readonly socket: Writable
  readonly pool: SlabPool
  /** Whether the socket enciphers. */
  readonly secure: boolean
  /** Called whenever replies have left the process. */
  readonly onLeft: () => void
}

export class ReplyQueue {
  readonly #socket: Writable
  readonly #pool: SlabPool
  readonly #onLeft: () => void
  readonly #secure: boolean
  #current: Slab | undefined
  #ready: Run[] = []
  /** Runs whose last byte the socket has, and not let go. */
  readonly #leaving = new Set<Run>()
  #readyBytes = 0
  #scheduled: NodeJS.Immediate | undefined
  #heldBytes = 0
  #closed = false
  #waiting: (() => void)[] = []
  /** Bytes that are handed over in one go. */
  #atOnce: number
  /** Those that a secure socket has not let go. */
  #pieces = 0
  /** Bytes of the first ready run that have been handed over. */
  #taken = 0

  constructor({ socket, pool, secure, onLeft }: ReplyQueueOptions) {
    this.#socket = socket
    this.#pool = pool
    this.#secure = secure
    this.#atOnce = secure ? maxEnciphered : Number.POSITIVE_INFINITY
    this.#onLeft = onLeft
  }

  /** Bytes reserved that have neither left nor been cancelled. */
  get heldBytes(): number {
    return this.#heldBytes
  }

  /**
   * When the client has read enough for a long reply to go on, or the queue has been closed. The
   * `length` bytes count as held until they are given back, when what is needed is reserved: of
   * those who wait no more go on than there is room for.
   */
  async room(length: number): Promise<void> {
    while (this.#heldBytes >= maxBytesInFlight && !this.#closed) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve))
    }
    this.#heldBytes += length
  }

  giveBackRoom(length: number): void {
    this.#heldBytes -= length
  }

  /** Room for `length` bytes. It is `send` or `cancel`led, once. */
  reserve(length: number): Reservation {
    this.#heldBytes += length
    if (length > slabLength / 2) return { slab: this.#pool.take(length), start: 0, length }
    const slab = this.#slabFor(length)
    const start = slab.used
    slab.used += length
    slab.holders++
    return { slab, start, length }
  }

  /** Queues the first `length` bytes of a reservation. */
  send(reservation: Reservation, length: number): void {
    if (this.#closed) this.cancel(reservation)
    else this.#append(reservation, length)
  }

  #append(reservation: Reservation, length: number): void {
    const { slab, start } = reservation
    this.#giveBackTail(reservation, length)
    const last = this.#ready.at(-1)
    if (last && last.slab === slab && last.end === start) {
      last.end += length
      last.count++
      last.held += reservation.length
    } else {
      this.#ready.push({ slab, start, end: start + length, count: 1, held: reservation.length })
    }
    this.#readyBytes += length
    if (this.#readyBytes >= flushLength) this.flush()
  }

  cancel(reservation: Reservation): void {
    this.#heldBytes -= reservation.length
    this.#giveBackTail(reservation, 0)
    this.#pool.release(reservation.slab)
  }

  /** Sees to it that what is ready leaves in this turn of the event loop. */
  schedule(): void {
    if (this.#closed) return
    this.#scheduled ??= setImmediate(() => {
      this.#scheduled = undefined
      this.flush()
    })
  }

  /** Hands what is ready to the socket: everything, or as much as is enciphered at a time. */
  flush(): void {
    if (this.#ready.length > 0 && this.#pieces === 0) this.#write(this.#atOnce)
  }

  /** Hands over everything, with nothing to follow: the socket may be told to end. */
  finish(): void {
    this.#atOnce = Number.POSITIVE_INFINITY
    if (this.#ready.length > 0) this.#write(this.#atOnce)
  }

  /** Up to `length` bytes, in one gathered write. */
  #write(length: number): void {
    const pieces = this.#takePieces(length)
    if (pieces.length > 1) this.#socket.cork()
    for (const { bytes, run } of pieces) {
      if (this.#secure) this.#pieces++
      this.#socket.write(bytes, () => this.#wrote(run))
    }
    if (pieces.length > 1) this.#socket.uncork()
  }

  /** The next `length` bytes that are ready; each piece with the run that ends with it. */
  #takePieces(length: number): { readonly bytes: Uint8Array; readonly run: Run | undefined }[] {
    const pieces: { bytes: Uint8Array; run: Run | undefined }[] = []
    let left = length
    while (left > 0 && this.#ready.length > 0) {
      const run = this.#ready[0]
      const from = run.start + this.#taken
      const end = Math.min(run.end, from + left)
      const whole = end === run.end
      pieces.push({ bytes: run.slab.bytes.subarray(from, end), run: whole ? run : undefined })
      if (whole) this.#leaving.add(this.#ready.shift()!)
      this.#taken = whole ? 0 : this.#taken + end - from
      this.#readyBytes -= end - from
      left -= end - from
    }
    return pieces
  }

  #wrote(run: Run | undefined): void {
    if (this.#secure) this.#pieces--
    if (run && this.#leaving.delete(run)) this.#left(run)
    if (this.#secure) this.flush()
  }

  /**
   * The socket is closed: drops what has not left. What is sent from now on is cancelled. A socket
   * that is destroyed does not tell of what it had still in its buffer.
   */
  close(): void {
    this.#closed = true
    clearImmediate(this.#scheduled)
    for (const run of [...this.#leaving, ...this.#ready]) this.#release(run)
    this.#leaving.clear()
    this.#ready = []
    if (this.#current) this.#pool.release(this.#current)
    this.#current = undefined
    this.#wake()
  }

  #left(run: Run): void {
    this.#release(run)
    this.#wake()
    this.#onLeft()
  }

  #wake(): void {
    const waiting = this.#waiting
    this.#waiting = []
    for (const resume of waiting) resume()
  }

  #release(run: Run): void {
    this.#heldBytes -= run.held
    for (let count = run.count; count > 0; count--) this.#pool.release(run.slab)
  }

  /** The slab being filled, if `length` bytes fit: from its start again when nobody needs it. */
  #slabFor(length: number): Slab {
    const current = this.#current
    if (current) {
      if (current.holders === 1) current.used = 0
      if (current.used + length <= current.bytes.length) return current
      this.#pool.release(current)
    }
    this.#current = this.#pool.take(slabLength)
    return this.#current
  }

  /** The last reservation of a slab need not waste what it does not use. */
  #giveBackTail({ slab, start, length }: Reservation, used: number): void {
    if (slab.used === start + length) slab.used = start + used
  }
}
