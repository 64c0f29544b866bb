/**
 * How many pieces a copying job has in flight, and how long they may be. Between local disks few are
 * best: what was read is then still in the processor's cache when it is written. A server far away
 * needs more, a slow one does not: there they would only stand in a queue, with what guests wait for
 * behind them. So the number is tried out: more stay if they copy faster, fewer if they copy as fast.
 */
import { maxCopyLength } from '../block/block-copy.ts'
import { KiB } from '../bytes/range.ts'

const fewest = 2
const first = 3

/** Milliseconds that the rate is measured for, at least. */
const epochMs = 50

/** What more of them must bring to stay, and what fewer may cost. */
const worthwhile = 1.2
const negligible = 0.95

/** Epochs between two trials: more of them each time that nothing was gained. */
const firstRest = 2
const longestRest = 64

/** Whoever needs a piece that is in flight waits for all of it: about this long. */
const pieceMs = 2
const shortestPiece = 256 * KiB

export class CopyPace {
  readonly #most: number
  #workers: number
  #pieceLength = shortestPiece
  // The present epoch.
  #began = 0
  #pieces = 0
  #bytes = 0
  /** What is in flight was begun under other circumstances. */
  #unsettled = true
  // What is known, and what is being tried.
  /** Bytes a millisecond, with `#settled` workers. */
  #rate = 0
  #settled: number
  #trial: 'more' | 'fewer' | undefined
  #next: 'more' | 'fewer' = 'more'
  #rest = 0
  #pause = firstRest

  constructor(most: number) {
    this.#most = most
    this.#workers = Math.min(first, most)
    this.#settled = this.#workers
  }

  /** Pieces in flight, from now on. */
  get workers(): number {
    return this.#workers
  }

  /** Bytes. */
  get pieceLength(): number {
    return this.#pieceLength
  }

  /** A piece has been copied; `now` is in milliseconds. */
  copied(bytes: number, now = performance.now()): void {
    this.#pieces++
    this.#bytes += bytes
    const elapsed = now - this.#began
    if (this.#pieces < 2 * this.#workers || elapsed < epochMs) return
    const rate = this.#bytes / elapsed
    this.#pieces = 0
    this.#bytes = 0
    this.#began = now
    if (this.#unsettled) this.#unsettled = false
    else this.#judge(rate)
  }

  #judge(rate: number): void {
    this.#pieceLength = pieceLengthFor(rate)
    const trial = this.#trial
    this.#trial = undefined
    if (!trial) {
      this.#rate = rate
      if (this.#rest-- <= 0) this.#try(this.#next)
    } else if (rate >= this.#rate * (trial === 'more' ? worthwhile : negligible)) {
      this.#rate = rate
      this.#settled = this.#workers
      this.#pause = firstRest
      this.#try(trial)
    } else {
      this.#set(this.#settled)
      this.#next = trial === 'more' ? 'fewer' : 'more'
      this.#rest = this.#pause
      this.#pause = Math.min(this.#pause * 2, longestRest)
    }
  }

  #try(trial: 'more' | 'fewer'): void {
    const workers = this.#workers
    const next = trial === 'more' ? Math.ceil(workers * 1.5) : Math.floor(workers * 0.75)
    const bounded = Math.min(this.#most, Math.max(Math.min(fewest, this.#most), next))
    this.#next = trial === 'more' ? 'fewer' : 'more'
    if (bounded === workers) return
    this.#trial = trial
    this.#set(bounded)
  }

  #set(workers: number): void {
    this.#workers = workers
    this.#unsettled = true
  }
}

function pieceLengthFor(rate: number): number {
  let length = shortestPiece
  while (length < maxCopyLength && length * 2 <= rate * pieceMs) length *= 2
  return length
}

/**
 * Runs `step`, which copies a piece, in as many workers as the pace allows at the time, until it
 * says that nothing is left. After a failure no further piece is begun; the first one is thrown.
 */
export async function runWorkers(pace: CopyPace, step: () => Promise<boolean>): Promise<void> {
  const running = new Set<Promise<void>>()
  let active = 0
  let failure: { readonly error: unknown } | undefined
  let ended = false
  const work = async (): Promise<void> => {
    try {
      // Counted here and not when the promise settles, or too many might leave.
      while (!failure && active <= pace.workers) {
        if (await step()) join()
        else ended = true
        if (ended) return
      }
    } catch (error) {
      failure ??= { error }
    } finally {
      active--
    }
  }
  const join = () => {
    while (!ended && !failure && active < pace.workers) {
      active++
      const worker: Promise<void> = work().finally(() => running.delete(worker))
      running.add(worker)
    }
  }
  join()
  while (running.size > 0) await Promise.race(running)
  if (failure) throw (failure as { readonly error: unknown }).error
}
