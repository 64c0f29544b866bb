/**
 * Fleecing: guests that write during a backup wait for a fast spill area, not for the target. This
 * is the part that several disks of one backup share: the room for old data and its limit, and
 * what copies old data from there first, so that the room can be used again.
 */
import type { BlockCopyOptions } from '../block/block-copy.ts'
import { deferred } from '../block/deferred.ts'
import { FleecedCopy, type OnSpillFull } from '../block/fleeced-copy.ts'
import type { BlockLayer } from '../block/layer.ts'
import { SpillArea, type SpillBudget, spillBudget } from '../block/spill-area.ts'
import { GiB } from '../bytes/range.ts'
import { invalid } from '../errors.ts'
import { SpillFile } from '../protocol/file/spill-file.ts'
import { underPolicy } from './copy-loop.ts'
import type { JobControl } from './work.ts'

export interface FleecingOptions {
  /** Where a file is made for old data; `$TMPDIR` or `/var/tmp` unless given. */
  readonly folder?: string
  /** Bytes that all disks may take together; 4 GiB unless given. */
  readonly limit?: number
  /**
   * When there is no room left, guest writes wait until the target has what they overwrite
   * (`slow`, the default), or go on while the backup fails (`give-up`).
   */
  readonly onFull?: OnSpillFull
}

/** Bytes of old data at a time, unless something else is said. */
export const defaultSpillLimit = 4 * GiB

/** Pieces of spilled data on their way to the target. */
const drainWorkers = 4

/** The share of the room from which on nothing but spilled data is copied. */
const crowded = 0.5

export class Fleecing implements AsyncDisposable {
  readonly #options: FleecingOptions
  readonly #budget: SpillBudget
  readonly #copies: FleecedCopy[] = []
  readonly #areas: SpillArea[] = []
  /** In the file, for disks that have no node of their own for it. */
  #shared: SpillArea | undefined
  /** Workers that have something to copy. */
  #busy = 0
  /** Settles when a disk spills, or a piece has been copied. */
  #changed = deferred()

  constructor(options: FleecingOptions) {
    const { limit = defaultSpillLimit } = options
    if (!Number.isSafeInteger(limit) || limit < 0) {
      throw invalid(`a spill limit of ${limit} bytes makes no sense`)
    }
    this.#options = options
    this.#budget = spillBudget(limit)
  }

  /** Bytes of old data that wait now, and that have waited at the worst moment. */
  get usage(): { readonly used: number; readonly peak: number } {
    return this.#budget
  }

  /** Opens the file, for disks that have no node; all have clusters of that size. */
  async openFile(slotSize: number): Promise<void> {
    if (this.#shared) return
    const file = await SpillFile.create(this.#options.folder)
    this.#shared = new SpillArea(file, this.#budget.limit, slotSize, this.#budget)
  }

  /** A disk's copy, as `CopyMaking` makes it; `node` is its own, or else the file is used. */
  makeCopy(options: BlockCopyOptions, node: BlockLayer | undefined): FleecedCopy {
    const spill = node ? this.#areaOn(node, options.clusterSize) : this.#shared
    if (!spill) throw new TypeError('the file for spilled data has not been opened')
    const { onFull = 'slow' } = this.#options
    const copy = new FleecedCopy({ ...options, spill, onFull })
    copy.onSpilled = () => this.#tell()
    this.#copies.push(copy)
    return copy
  }

  /** Waits while spilled data takes too much room: it is copied first. */
  async turn(control: JobControl): Promise<void> {
    const isCrowded = () => this.#copies.some(({ fullness }) => fullness > crowded)
    while (this.#busy > 0 && isCrowded() && !control.signal.aborted) {
      await control.wait(this.#changed.promise)
      await control.pausePoint()
    }
  }

  /** Does the work, and meanwhile copies what all disks spill. The first failure ends both. */
  async during(control: JobControl, work: (signal: AbortSignal) => Promise<void>): Promise<void> {
    const end = new AbortController()
    const signal = AbortSignal.any([control.signal, end.signal])
    let failure: { readonly error: unknown } | undefined
    const endWith = (error: unknown) => {
      // Those who waited for something when all had been done.
      if (end.signal.aborted) return
      failure = { error }
      end.abort(error)
      this.#tell()
    }
    const drains = Array.from({ length: drainWorkers }, () =>
      this.#drain(control, signal).catch(endWith),
    )
    try {
      await work(signal)
    } catch (error) {
      endWith(error)
    }
    end.abort()
    this.#tell()
    await Promise.all(drains)
    if (failure) throw failure.error
  }

  /** When nothing is copied any more. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const area of this.#areas.splice(0)) await area[Symbol.asyncDispose]()
    await this.#shared?.[Symbol.asyncDispose]()
    this.#shared = undefined
  }

  #areaOn(node: BlockLayer, slotSize: number): SpillArea {
    const storage = {
      read: node.read.bind(node),
      write: node.write.bind(node),
      discard: node.discard.bind(node),
      // The filter's child, which goes with it.
      async [Symbol.asyncDispose]() {},
    }
    const area = new SpillArea(storage, node.size, slotSize, this.#budget)
    this.#areas.push(area)
    return area
  }

  async #drain(control: JobControl, signal: AbortSignal): Promise<void> {
    // Not in the background: in an archive it goes before what is read from the disks.
    const io = { signal }
    const ended = new Promise<void>((resolve) => {
      signal.addEventListener('abort', () => resolve(), { once: true })
    })
    for (;;) {
      // When all has been done nobody needs to resume the job for its end.
      await Promise.race([control.pausePoint(), ended])
      if (signal.aborted) return
      const found = this.#oldest()
      if (!found) {
        await control.wait(this.#changed.promise)
        continue
      }
      this.#busy++
      try {
        const { copy, offset, length } = found
        await Promise.race([control.throttle(length), ended])
        if (signal.aborted) return
        await underPolicy(control, () => control.during(() => copy.copy(offset, length, io)))
      } finally {
        this.#busy--
        this.#tell()
      }
    }
  }

  #oldest() {
    for (const copy of this.#copies) {
      const piece = copy.oldestSpilled()
      if (piece) return { copy, ...piece }
    }
    return undefined
  }

  #tell(): void {
    this.#changed.resolve()
    this.#changed = deferred()
  }
}
