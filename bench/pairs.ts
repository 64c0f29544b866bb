/**
 * Runs two ways of doing the same work in turn, A B B A …, so that a machine whose speed drifts, and
 * one whose host gives and takes memory by what ran before, treat both alike, and compares the
 * pairs. Quote the ratio; the absolute figures are of one machine on one day.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { run } from './process.ts'
import { warm } from './warm.ts'

export interface Comparison {
  readonly name: string
  readonly unit: string
  readonly ours: number
  readonly peer: number
  /** How many times better we are: above 1 is in our favour. */
  readonly ratio: number
  readonly lowestRatio: number
  readonly highestRatio: number
}

export interface PairOptions {
  readonly name: string
  readonly unit: string
  /** Whether a larger figure is the better one. */
  readonly higherIsBetter: boolean
  readonly runs: number
  /** Seconds of rest before each run; 0 without. */
  readonly rest?: number
  /** Files that are read whole before each run, so that both sides find them in the page cache. */
  readonly cached?: readonly string[]
  /** Each returns its figure. */
  readonly ours: () => Promise<number>
  readonly peer: () => Promise<number>
}

/**
 * One warm-up of each, then `runs` pairs; medians of both and of the ratios. Where a machine's host takes
 * back what is free, the first to start after a run finds memory that the second has to be given
 * again: a rest makes them equal.
 */
export async function comparePairs(options: PairOptions): Promise<Comparison> {
  const ours: number[] = []
  const peer: number[] = []
  const rested = async (work: () => Promise<number>) => {
    if (options.rest) {
      // What the run before wrote does not weigh on this one.
      await run('sync', [])
      await sleep(options.rest * 1000)
    }
    for (const file of options.cached ?? []) await warm(file)
    return await work()
  }
  for (let round = -1; round < options.runs; round++) {
    const peerFirst = round % 2 === 1 ? await rested(options.peer) : undefined
    const our = await rested(options.ours)
    const their = peerFirst ?? (await rested(options.peer))
    if (round < 0) continue
    ours.push(our)
    peer.push(their)
  }
  const ratios = ours.map((figure, index) =>
    options.higherIsBetter ? figure / peer[index] : peer[index] / figure,
  )
  return {
    name: options.name,
    unit: options.unit,
    ours: median(ours),
    peer: median(peer),
    ratio: median(ratios),
    lowestRatio: Math.min(...ratios),
    highestRatio: Math.max(...ratios),
  }
}

export function median(figures: readonly number[]): number {
  const sorted = figures.toSorted((a, b) => a - b)
  const middle = Math.floor(sorted.length / 2)
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}
