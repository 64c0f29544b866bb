/**
 * The part of `UnstableMemory` that a power failure leaves behind: the platter, and the changes
 * in the cache that may or may not have reached it.
 */
import { SeededRandom } from '../../bytes/seeded-random.ts'
import { MemoryLayer } from '../memory.ts'
import type { SparseBytes } from '../sparse-bytes.ts'
import { applyChange, type Change } from './disk-change.ts'

/** What a crash may do to unflushed changes; everything unless said otherwise. */
export interface CrashOptions {
  /** Some never reached the platter. */
  readonly lose?: boolean
  /** Of some only a part of the sectors did. */
  readonly tear?: boolean
  /** They arrived in another order, which shows where they overlap. */
  readonly reorder?: boolean
}

export interface Crash {
  /** Changes that had been made. */
  readonly step: number
  readonly seed: number
  /** The disk as it is found afterwards. */
  readonly disk: MemoryLayer
  /** `crash after step 17 of seed 5`, for messages of tests. */
  toString(): string
}

/** What a disk writes whole or not at all. */
const sectorSize = 512

type Stored = Exclude<Change, { kind: 'flush' }>
type Ranged = Exclude<Stored, { kind: 'truncate' }>

export class Platter {
  readonly #bytes: SparseBytes
  #size: number
  /** Changes since the last flush, oldest first. */
  #unflushed: Stored[] = []

  /** `bytes` is taken over. */
  constructor(bytes: SparseBytes, size: number) {
    this.#bytes = bytes
    this.#size = size
  }

  apply(change: Change): void {
    if (change.kind !== 'flush') {
      this.#unflushed.push(change)
      return
    }
    for (const earlier of this.#unflushed) {
      this.#size = applyChange(this.#bytes, this.#size, earlier)
    }
    this.#unflushed = []
  }

  crash(step: number, seed: number, options: CrashOptions = {}): Crash {
    const random = new SeededRandom(Math.imul(seed, 0x10001) + step)
    const bytes = this.#bytes.copy()
    let size = this.#size
    for (const change of this.#survivors(random, options)) size = applyChange(bytes, size, change)
    const disk = new MemoryLayer({ size }, bytes)
    return { step, seed, disk, toString: () => `crash after step ${step} of seed ${seed}` }
  }

  /** What reaches the platter, in the order in which it does. */
  #survivors(random: SeededRandom, options: CrashOptions): Stored[] {
    const { lose = true, tear = true, reorder = true } = options
    // Everything gone and everything there are the likeliest mistakes to show something.
    const keep = lose ? random.pick([0, 0.2, 0.5, 0.8, 1]) : 1
    const survivors: Stored[] = []
    for (const group of this.#groups()) {
      const order = reorder ? random.shuffled(group) : group
      for (const index of order) {
        survivors.push(...this.#pieces(index, random, keep, tear))
      }
    }
    return survivors
  }

  /** Indices of changes that may change places. A change of size keeps its place. */
  #groups(): number[][] {
    const groups: number[][] = [[]]
    for (const [index, change] of this.#unflushed.entries()) {
      if (change.kind === 'truncate') groups.push([index], [])
      else groups.at(-1)?.push(index)
    }
    return groups
  }

  #pieces(index: number, random: SeededRandom, keep: number, tear: boolean): Stored[] {
    const change = this.#unflushed[index]
    if (change.kind === 'truncate') return random.chance(keep) ? [change] : []
    if (change.fua) return this.#notOverwritten(sectorsOf(change), index)
    if (tear && random.chance(0.3)) {
      const some = sectorsOf(change).filter(() => random.chance(keep))
      return this.#notOverwritten(some, index)
    }
    return random.chance(keep) ? this.#notOverwritten(sectorsOf(change), index) : []
  }

  /** Without what a later change with force unit access has put in its place for good. */
  #notOverwritten(pieces: Ranged[], index: number): Ranged[] {
    const final = this.#unflushed
      .slice(index + 1)
      .filter((change): change is Ranged => change.kind !== 'truncate' && change.fua)
    if (final.length === 0) return pieces
    return pieces.flatMap((piece) => final.reduce<Ranged[]>(withoutAll, [piece]))
  }
}

/** The change in pieces that lie in one sector each. */
function sectorsOf(change: Ranged): Ranged[] {
  const pieces: Ranged[] = []
  const end = change.offset + lengthOf(change)
  for (let at = change.offset; at < end; ) {
    const next = Math.min(end, at - (at % sectorSize) + sectorSize)
    pieces.push(part(change, at, next))
    at = next
  }
  return pieces
}

function withoutAll(pieces: Ranged[], cover: Ranged): Ranged[] {
  return pieces.flatMap((piece) => without(piece, cover))
}

/** What of `piece` lies before and behind `cover`. */
function without(piece: Ranged, cover: Ranged): Ranged[] {
  const end = piece.offset + lengthOf(piece)
  const coverEnd = cover.offset + lengthOf(cover)
  if (coverEnd <= piece.offset || cover.offset >= end) return [piece]
  const rest: Ranged[] = []
  if (cover.offset > piece.offset) rest.push(part(piece, piece.offset, cover.offset))
  if (coverEnd < end) rest.push(part(piece, coverEnd, end))
  return rest
}

function part(change: Ranged, start: number, end: number): Ranged {
  if (change.kind === 'zero') return { ...change, offset: start, length: end - start }
  const bytes = change.bytes.subarray(start - change.offset, end - change.offset)
  return { ...change, offset: start, bytes }
}

function lengthOf(change: Ranged): number {
  return change.kind === 'zero' ? change.length : change.bytes.length
}
