/**
 * The extents of an archive that is being written: one is being filled, a bounded number of others
 * travel to the sink. Who finds no room waits, and background writes wait behind all others. The first
 * error is final, and everybody who waits learns of it.
 */
import { ExtentBuilder } from './extent.ts'
import type { ArchiveSink } from './io/sink.ts'

/** Extents on their way to the sink while another one is being filled: 27 MB in all. */
const ringSize = 6

/** Extents of the ring that background writes leave to those for which a guest waits. */
const reservedExtents = 3

interface Waiter {
  readonly background: boolean
  run(): void
  reject(error: unknown): void
}

export class ExtentRing {
  readonly #sink: ArchiveSink
  #current: ExtentBuilder | undefined
  readonly #free: ExtentBuilder[] = []
  #builders = 0
  readonly #inFlight = new Set<Promise<void>>()
  readonly #waiting: Waiter[] = []
  #failure: { readonly error: unknown } | undefined

  constructor(sink: ArchiveSink) {
    this.#sink = sink
  }

  /** The first error. */
  get error(): unknown {
    return this.#failure?.error
  }

  throwFailure(): void {
    if (this.#failure) throw this.#failure.error
  }

  /** Keeps the first error and returns it; those who wait learn of it. */
  fail(error: unknown): unknown {
    this.#failure ??= { error }
    for (const { reject } of this.#waiting.splice(0)) reject(this.#failure.error)
    return this.#failure.error
  }

  /** Whether a cluster can be stored at once, without overtaking somebody who waits. */
  mayStore(background: boolean): boolean {
    const mayOvertake = this.#waiting.every((waiter) => waiter.background && !background)
    return mayOvertake && this.#hasRoom(background)
  }

  /** Calls `store` when there is room for a cluster. */
  whenRoom<Result>(background: boolean, store: () => Result): Promise<Result> {
    return new Promise<Result>((resolve, reject) => {
      this.#waiting.push({ background, run: () => resolve(store()), reject })
    })
  }

  /** The extent that is being filled, begun where there is none; there is room. */
  current(): ExtentBuilder {
    this.#current ??= this.#free.pop() ?? this.#newBuilder()
    return this.#current
  }

  /** Takes the extent that is being filled, unless it is empty, to be sent. */
  takeCurrent(): ExtentBuilder | undefined {
    if (!this.#current || this.#current.empty) return undefined
    const builder = this.#current
    this.#current = undefined
    return builder
  }

  /** Starts to write `bytes`, behind all that was sent before; they are the memory of `builder`, if given. */
  send(bytes: Uint8Array, builder?: ExtentBuilder): void {
    const sent: Promise<void> = this.#sink.write(bytes).then(
      () => {
        this.#inFlight.delete(sent)
        if (builder) this.#recycle(builder)
      },
      (error) => {
        this.#inFlight.delete(sent)
        this.fail(error)
      },
    )
    this.#inFlight.add(sent)
  }

  /** Settles when nobody waits for room any more. */
  async drain(): Promise<void> {
    while (this.#waiting.length > 0) await this.settle()
  }

  /** Waits for all that is in flight now. */
  async settle(): Promise<void> {
    await Promise.all(this.#inFlight)
    this.throwFailure()
  }

  /** Lets go of the sink, with nothing left in flight. */
  async abort(): Promise<void> {
    // The sink first: what is in flight may wait for a reader that never comes.
    await this.#sink.abort()
    await Promise.all(this.#inFlight)
  }

  #hasRoom(background: boolean): boolean {
    const free = this.#free.length + ringSize + 1 - this.#builders
    if (background && free < reservedExtents) return false
    return this.#current !== undefined || free > 0
  }

  #newBuilder(): ExtentBuilder {
    this.#builders++
    return new ExtentBuilder()
  }

  /** The extent has left: its memory is free for those who wait. */
  #recycle(builder: ExtentBuilder): void {
    builder.reset()
    this.#free.push(builder)
    while (this.#runNext((waiter) => !waiter.background)) {}
    while (this.#runNext((waiter) => waiter.background)) {}
  }

  /** Lets the first waiter of a kind store its cluster, if there is room for it. */
  #runNext(ofKind: (waiter: Waiter) => boolean): boolean {
    const at = this.#waiting.findIndex(ofKind)
    if (at < 0 || !this.#hasRoom(this.#waiting[at].background)) return false
    this.#waiting.splice(at, 1)[0].run()
    return true
  }
}
