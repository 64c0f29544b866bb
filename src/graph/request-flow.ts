/**
 * The requests of one node while they run: kept apart from conflicting ones, tracked for draining,
 * counted, and what they changed noted for flushes and for those who follow the changes.
 */
import type { BlockLayer, Completion, Io, WriteIo } from '../block/layer.ts'
import { type Hold, RangeLock } from '../block/range-lock.ts'
import { alignDown, alignUp, type ByteRange } from '../bytes/range.ts'
import type { BitmapTable } from './bitmap-table.ts'
import type { NodeStatistics, RequestKind } from './statistics.ts'

/** What the flow needs of its node. */
export interface FlowNode {
  readonly layer: BlockLayer
  readonly statistics: NodeStatistics
  readonly bitmaps: BitmapTable
}

export class RequestFlow {
  readonly #node: FlowNode
  readonly #lock = new RangeLock()
  /**
   * Counts changes that have settled, whether well or not; flushing is needed only when it has moved
   * since the last flush. One in flight counts when it ends: a flush meanwhile may have missed it.
   */
  #changes = 0
  #flushed = 0

  constructor(node: FlowNode) {
    this.#node = node
  }

  /** Whether something has changed since the last flush. */
  get unflushed(): boolean {
    return this.#flushed !== this.#changes
  }

  /** What a flush that begins now will have brought to stable storage; for `flushedTo`. */
  get changes(): number {
    return this.#changes
  }

  flushedTo(changes: number): void {
    if (changes > this.#flushed) this.#flushed = changes
  }

  /** Whether a request for the range would have to wait. */
  blocks(offset: number, length: number): boolean {
    return this.#lock.blocks(offset, length)
  }

  /** Settles when nothing is in flight. */
  idle(): Promise<void> {
    return this.#lock.idle()
  }

  /** Runs `work` while no other request touches the range. */
  async serialised<T>(range: ByteRange, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    return await this.#lock.during(range.offset, range.length, true, signal, work)
  }

  /** Something that goes on beside all requests; a drain waits for its end. */
  passing<T>(done: Promise<T>): Promise<T> {
    return this.#lock.hold(0, 0, done)
  }

  /** The same, for work that changes the node; even a failed one may leave something to flush. */
  async changing(range: ByteRange, signal: AbortSignal, work: () => Completion): Promise<void> {
    try {
      await this.#lock.during(range.offset, range.length, true, signal, work)
    } finally {
      this.#changes++
    }
  }

  /** Starts work that conflicts with nothing; tracks it only if it takes time. */
  start(
    kind: RequestKind,
    offset: number,
    length: number,
    io: Io | WriteIo,
    work: () => Completion,
  ): Completion {
    let done: Completion
    try {
      done = work()
    } catch (error) {
      this.#fail(kind, offset, length, io, error)
    }
    if (!(done instanceof Promise)) return this.#count(kind, offset, length, io)
    // Counted, and marked as dirty, before whoever waits for the range goes on.
    const counted = done.then(
      () => this.#count(kind, offset, length, io),
      (error) => this.#fail(kind, offset, length, io, error),
    )
    return this.#lock.hold(offset, length, counted)
  }

  /** A write whose ragged ends, if any, are read, modified and written with nobody in between. */
  modify(
    kind: RequestKind,
    offset: number,
    length: number,
    io: WriteIo,
    work: () => Completion,
  ): Promise<void> {
    const { alignment } = this.#node.layer.limits
    const start = alignDown(offset, alignment)
    const end = alignUp(offset + length, alignment)
    const ragged = start !== offset || end !== offset + length
    return this.track(kind, start, end - start, ragged, io, work)
  }

  /** Runs work as a tracked request that waits for conflicting ones. */
  async track(
    kind: RequestKind,
    offset: number,
    length: number,
    exclusive: boolean,
    io: Io | WriteIo,
    work: () => Completion,
  ): Promise<void> {
    let hold: Hold | undefined
    try {
      hold = await this.#lock.acquire(offset, length, exclusive, io.signal)
      await work()
      this.#count(kind, offset, length, io)
    } catch (error) {
      this.#fail(kind, offset, length, io, error)
    } finally {
      if (hold) this.#lock.release(hold)
    }
  }

  #count(kind: RequestKind, offset: number, length: number, io: Io | WriteIo): void {
    const counters = this.#node.statistics[kind]
    if (changes(kind)) this.noteChange(offset, length, io)
    counters.operations++
    counters.bytes += length
  }

  #fail(
    kind: RequestKind,
    offset: number,
    length: number,
    io: Io | WriteIo,
    error: unknown,
  ): never {
    if (changes(kind)) this.noteChange(offset, length, io)
    this.#node.statistics[kind].failed++
    throw error
  }

  /** After the change: a job that has cleared a bit finds it again, or else reads the new data. */
  noteChange(offset: number, length: number, io: Io | WriteIo): void {
    this.#changes++
    if (!this.#node.bitmaps.watched || ('unchanged' in io && io.unchanged)) return
    // Behind the end lies the state of a machine, which is no part of the disk.
    if (offset < this.#node.layer.size) this.#node.bitmaps.mark(offset, length)
  }
}

/** Whether a request of that kind, even a failed one, may leave something to flush. */
function changes(kind: RequestKind): boolean {
  return kind !== 'read' && kind !== 'flush'
}
