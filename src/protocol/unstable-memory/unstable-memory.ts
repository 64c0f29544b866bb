/**
 * A disk in memory whose power can fail. Until it is flushed, a write is only in the disk's
 * cache: every reader sees it, but after a crash it may be there, be gone, be there in part
 * (whole sectors), and writes may have reached the platter in another order than they were made.
 *
 * A crash test runs its work once and then looks at every moment of it:
 *
 * ```ts
 * const disk = new UnstableMemory({ size: 0 })
 * await workOn(disk)
 * for (const crash of disk.crashes(seed)) {
 *   await checkImage(crash.disk, `${crash}`)   // a MemoryLayer: what was on the platter
 * }
 * ```
 *
 * What the platter shows follows from the operations, the step and the seed alone, so that a
 * failure is repeated by `disk.crashAfter(step, seed)`. Errors, unlike crashes, are injected
 * while the work runs: see `faults`.
 */
import type { ImageFacts } from '../../block/abilities.ts'
import type {
  BlockLayer,
  Capabilities,
  Completion,
  Extent,
  Io,
  Limits,
  WriteIo,
  ZeroIo,
} from '../../block/layer.ts'
import { SeededRandom } from '../../bytes/seeded-random.ts'
import { type MemoryLayer, memoryCapabilities, memoryLimits } from '../memory.ts'
import { SparseBytes } from '../sparse-bytes.ts'
import { type Crash, type CrashOptions, Platter } from './crash.ts'
import { applyChange, type Change } from './disk-change.ts'
import { Faults } from './faults.ts'

export interface UnstableMemoryOptions {
  /** Bytes. */
  readonly size: number
  /** Alignment that requests must have; 1 when left out. */
  readonly alignment?: number
  /** What it holds, and has held since long before any crash. */
  readonly content?: Uint8Array
  /**
   * With a seed, requests take a few turns of the event loop and finish in any order; without
   * one they are answered at once.
   */
  readonly delaySeed?: number
}

/** Like a file, it grows when written behind its end. */
export class UnstableMemory implements BlockLayer {
  readonly capabilities: Capabilities = memoryCapabilities(true)
  readonly limits: Limits
  readonly image: ImageFacts = { allocatedSize: async () => this.#bytes.allocated }
  /** Errors to come. Nothing fails unless it was announced here. */
  readonly faults: Faults = new Faults()
  /** Everything that changed it so far. */
  readonly log: readonly Change[]
  readonly #log: Change[] = []
  readonly #bytes: SparseBytes
  readonly #initial: SparseBytes
  readonly #initialSize: number
  readonly #delays: SeededRandom | undefined
  #size: number

  constructor(options: UnstableMemoryOptions) {
    this.#bytes = new SparseBytes()
    if (options.content) this.#bytes.write(0, options.content)
    this.#initial = this.#bytes.copy()
    this.#size = Math.max(options.size, options.content?.length ?? 0)
    this.#initialSize = this.#size
    this.#delays = options.delaySeed === undefined ? undefined : new SeededRandom(options.delaySeed)
    this.limits = memoryLimits(options.alignment ?? 1)
    this.log = this.#log
  }

  get size(): number {
    return this.#size
  }

  /** Number of changes so far: what `crashAfter` takes. */
  get steps(): number {
    return this.#log.length
  }

  /** What is on the platter if the power fails now. The disk itself goes on as if nothing had. */
  crash(seed: number, options?: CrashOptions): MemoryLayer {
    return this.crashAfter(this.steps, seed, options)
  }

  /** What would have been on the platter had the power failed after `step` changes. */
  crashAfter(step: number, seed: number, options?: CrashOptions): MemoryLayer {
    const platter = this.#platter()
    for (const change of this.#log.slice(0, step)) platter.apply(change)
    return platter.crash(step, seed, options).disk
  }

  /** One crash after each step, from none to all, each with chances of its own. */
  *crashes(seed: number, options?: CrashOptions): Generator<Crash> {
    const platter = this.#platter()
    yield platter.crash(0, seed, options)
    for (const [index, change] of this.#log.entries()) {
      platter.apply(change)
      yield platter.crash(index + 1, seed, options)
    }
  }

  read(offset: number, target: Uint8Array, io: Io): Completion {
    return this.#perform(io, () => {
      this.faults.meet('read', offset, target.length)
      this.#bytes.read(offset, target)
    })
  }

  write(offset: number, source: Uint8Array, io: WriteIo): Completion {
    return this.#perform(io, () => {
      const error = this.faults.find('write', offset, source.length)
      // A copy also of a Buffer, whose own `slice` would show what becomes of it later.
      const bytes = new Uint8Array(source.subarray(0, error ? error.arrives : source.length))
      if (bytes.length > 0) this.#change({ kind: 'write', offset, bytes, fua: io.fua && !error })
      if (error) throw error.reason
    })
  }

  writeZeroes(offset: number, length: number, io: ZeroIo): Completion {
    return this.#perform(io, () => {
      this.faults.meet('writeZeroes', offset, length)
      if (length > 0) this.#change({ kind: 'zero', offset, length, fua: io.fua })
    })
  }

  discard(offset: number, length: number, io: Io): Completion {
    return this.#perform(io, () => {
      this.faults.meet('discard', offset, length)
      const inside = Math.min(length, this.#size - offset)
      if (inside > 0) this.#change({ kind: 'zero', offset, length: inside, fua: false })
    })
  }

  flush(io: Io): Completion {
    return this.#perform(io, () => {
      this.faults.meet('flush', 0, this.#size)
      this.#change({ kind: 'flush' })
    })
  }

  truncate(size: number, io: Io): Completion {
    return this.#perform(io, () => {
      this.faults.meet('truncate', Math.min(size, this.#size), Math.abs(size - this.#size))
      this.#change({ kind: 'truncate', size })
    })
  }

  extentAt(offset: number, length: number, _io: Io): Extent {
    const run = this.#bytes.runAt(offset, length)
    return run.present
      ? { kind: 'data', offset, length: run.length }
      : { kind: 'zero', offset, length: run.length, allocated: false }
  }

  /** Nothing is flushed, and crashes can still be looked at. */
  async [Symbol.asyncDispose](): Promise<void> {}

  #platter(): Platter {
    return new Platter(this.#initial.copy(), this.#initialSize)
  }

  #change(change: Change): void {
    this.#log.push(change)
    this.#size = applyChange(this.#bytes, this.#size, change)
  }

  #perform(io: Io, work: () => void): Completion {
    if (!this.#delays) return work()
    return this.#later(this.#delays.below(4), io, work)
  }

  async #later(turns: number, io: Io, work: () => void): Promise<void> {
    for (let turn = 0; turn < turns; turn++) {
      await new Promise((resolve) => setImmediate(resolve))
      if (io.signal.aborted) throw io.signal.reason
    }
    work()
  }
}
