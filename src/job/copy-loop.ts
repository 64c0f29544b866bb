/**
 * Works through what a `BlockCopy` still has to copy, in ascending order, with a bounded number of
 * pieces in flight. What storage says to be zeroes, or not allocated, is not read.
 */

import { setTimeout as sleep } from 'node:timers/promises'
import type { Bitset } from '../bitmap/bitset.ts'
import { CopyError } from '../block/block-copy.ts'
import type { Io } from '../block/layer.ts'
import { GiB } from '../bytes/range.ts'
import type { BlockNode } from '../graph/node.ts'
import { chainExtentAt } from '../graph/status.ts'
import { CopyPace, runWorkers } from './copy-pace.ts'
import type { JobControl } from './work.ts'

/** Most pieces in flight. */
const maxWorkers = 8

/** Pause before pieces of which the policy has ignored an error are tried again. */
const retryDelayMs = 100

/** Longest run that is passed over in one step: progress and cancelling stay lively. */
const maxSkipLength = GiB

/** What is done to ranges; each verb deals with the whole of its range, or throws `CopyError`. */
export interface Copier {
  /** Bytes; a power of two. */
  readonly clusterSize: number
  /** Bytes of the disk. */
  readonly size: number
  /** Clusters that nobody has dealt with yet. */
  readonly todo: Bitset
  copy(offset: number, length: number, io: Io): Promise<void>
  /** The range reads as zeroes. */
  copyZeroes(offset: number, length: number, io: Io): Promise<void>
  /** The range need not be copied. */
  dismiss(offset: number, length: number, io: Io): Promise<void>
}

/** The first run of a range: to be copied, known to be zeroes, or no part of the copy. */
export interface CopyRun {
  readonly kind: 'data' | 'zero' | 'absent'
  readonly length: number
}

export type CopyStatus = (offset: number, length: number, io: Io) => Promise<CopyRun>

/** Everything that a disk shows; with `top`, an image of its chain, what that one holds. */
export function statusOf(source: BlockNode, top?: BlockNode): CopyStatus {
  return async (offset, length, io) => {
    if (top) {
      const run = await top.extentAt(offset, length, io)
      if (run.kind === 'backing') return { kind: 'absent', length: run.length }
    }
    const run = await chainExtentAt(source, offset, length, io)
    return { kind: run.zero ? 'zero' : 'data', length: run.length }
  }
}

export interface CopyLoopOptions {
  readonly copy: Copier
  readonly status: CopyStatus
  readonly control: JobControl
  /** Fires when the copy has become pointless. */
  readonly signal: AbortSignal
  /** Waits while something else has to be copied first; before each piece. */
  readonly turn?: () => Promise<void>
  /**
   * What becomes of pieces of which the policy has ignored an error: they are tried again, until it
   * goes well, or they are left out, and the first error is thrown at the end.
   */
  readonly ignored?: 'retry' | 'fail'
}

export async function runCopyLoop(options: CopyLoopOptions): Promise<void> {
  await new CopyLoop(options).run()
}

class CopyLoop {
  readonly #options: CopyLoopOptions
  readonly #io: Io
  /** First byte that no worker has taken yet. */
  #cursor = 0
  /** The first error that was ignored in this pass. */
  #ignored: { readonly error: unknown } | undefined
  readonly #pace = new CopyPace(maxWorkers)

  constructor(options: CopyLoopOptions) {
    this.#options = options
    this.#io = { signal: options.signal, background: true }
  }

  async run(): Promise<void> {
    const { signal, ignored = 'retry' } = this.#options
    for (;;) {
      await runWorkers(this.#pace, () => this.#step())
      signal.throwIfAborted()
      if (!this.#ignored) return
      if (ignored === 'fail') throw this.#ignored.error
      this.#ignored = undefined
      this.#cursor = 0
      // Cut short when the copy is cancelled, which the workers will see.
      await sleep(retryDelayMs, undefined, { signal }).catch(() => {})
    }
  }

  /** Takes the next piece and deals with it; false when there is none. */
  async #step(): Promise<boolean> {
    const { copy, control, signal, turn } = this.#options
    if (signal.aborted) return false
    await control.pausePoint()
    await turn?.()
    const { clusterSize, size } = copy
    const first = copy.todo.next(Math.floor(this.#cursor / clusterSize))
    if (first >= copy.todo.capacity) return false
    const offset = first * clusterSize
    const length = Math.min(this.#pace.pieceLength, size - offset)
    // Taken before anything is awaited, so that no two workers take the same piece.
    this.#cursor = offset + alignedLength(length, clusterSize)
    await this.#deal(offset, length)
    return true
  }

  async #deal(offset: number, length: number): Promise<void> {
    const end = offset + length
    for (let at = offset; at < end; ) {
      const done = await underPolicy(
        this.#options.control,
        () => this.#dealRun(at, end - at),
        (error) => {
          this.#ignored ??= { error }
        },
      )
      at += done ?? end - at
    }
  }

  /** Skips, zeroes or copies the first run of a piece; returns its length. */
  async #dealRun(offset: number, length: number): Promise<number> {
    const { copy, control } = this.#options
    const { clusterSize, size } = copy
    // The longest look ahead only where this worker is the foremost one.
    const foremost = this.#cursor === offset + alignedLength(length, clusterSize)
    const reach = foremost ? Math.min(maxSkipLength, size - offset) : length
    const run = await this.#readStatus(offset, reach)
    if (run.kind !== 'data') {
      const whole = wholeClusters(offset, run.length, clusterSize, size)
      if (whole > 0) {
        if (offset + whole > this.#cursor) this.#cursor = offset + whole
        // What the backing file provides is not part of a copy of the top.
        await control.during(() =>
          run.kind === 'absent'
            ? copy.dismiss(offset, whole, this.#io)
            : copy.copyZeroes(offset, whole, this.#io),
        )
        return whole
      }
    }
    // Of a cluster that is data in part, all is copied.
    const part = Math.min(length, alignedLength(run.length, clusterSize))
    await control.throttle(part)
    await control.during(() => copy.copy(offset, part, this.#io))
    this.#pace.copied(part)
    return part
  }

  async #readStatus(offset: number, length: number): Promise<CopyRun> {
    try {
      return await this.#options.status(offset, length, this.#io)
    } catch (error) {
      throw new CopyError('source', offset, error)
    }
  }
}

/** Runs work until it succeeds or the policy gives up; undefined when it ignores the error. */
export async function underPolicy<T>(
  control: JobControl,
  work: () => Promise<T>,
  onIgnored: (error: unknown) => void = () => {},
): Promise<T | undefined> {
  for (;;) {
    try {
      return await work()
    } catch (error) {
      if (!(error instanceof CopyError)) throw error
      const operation = error.side === 'source' ? 'read' : 'write'
      const answer = await control.failed(error.cause, operation)
      if (answer === 'retry') continue
      onIgnored(error.cause)
      return undefined
    }
  }
}

function alignedLength(length: number, clusterSize: number): number {
  return Math.ceil(length / clusterSize) * clusterSize
}

/** Bytes of whole clusters at the start of a run; the disk's last one may be cut. */
function wholeClusters(offset: number, length: number, clusterSize: number, size: number): number {
  if (offset + length >= size) return size - offset
  return length - (length % clusterSize)
}
