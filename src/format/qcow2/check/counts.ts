/**
 * A count for each cluster of a file. Most are 0 or 1 and lie close together, so they are kept as
 * bytes, in pieces that exist only where something was counted: a sparse file of petabytes costs
 * what its used parts cost.
 */

import { isZero } from '../../../bytes/zero.ts'

/** Clusters of one piece. */
export const pieceLength = 65_536

/** Stored instead of counts that do not fit a byte. */
const large = 255

export class Counts {
  readonly #pieces: (Uint8Array | undefined)[] = []
  readonly #large = new Map<number, number>()

  get(cluster: number): number {
    const piece = this.#pieces[Math.floor(cluster / pieceLength)]
    if (piece === undefined) return 0
    const count = piece[cluster % pieceLength]
    return count === large ? this.#large.get(cluster)! : count
  }

  add(cluster: number, amount: number): void {
    const piece = this.#pieceOf(cluster)
    const at = cluster % pieceLength
    const sum = piece[at] + amount
    if (piece[at] !== large && sum < large) piece[at] = sum
    else this.set(cluster, this.get(cluster) + amount)
  }

  /** Adds to consecutive clusters. */
  addRange(first: number, count: number, amount: number): void {
    for (let start = first; start < first + count; ) {
      const piece = this.#pieceOf(start)
      const from = start % pieceLength
      const end = Math.min(pieceLength, from + first + count - start)
      // Long runs that nobody has counted before are filled by a native call.
      if (end - from >= longRun && amount < large && isZero(piece.subarray(from, end))) {
        piece.fill(amount, from, end)
      } else {
        for (let at = from; at < end; at++) this.add(start - from + at, amount)
      }
      start += end - from
    }
  }

  /** Whether all of some consecutive clusters have a count of one. */
  areOne(first: number, count: number): boolean {
    for (let start = first; start < first + count; ) {
      const piece = this.#pieces[Math.floor(start / pieceLength)] ?? noCounts
      const from = start % pieceLength
      const end = Math.min(pieceLength, from + first + count - start)
      if (Buffer.compare(piece.subarray(from, end), allOne.subarray(from, end)) !== 0) return false
      start += end - from
    }
    return true
  }

  /** Whether none of some consecutive clusters has a count. */
  areZero(first: number, count: number): boolean {
    for (let start = first; start < first + count; ) {
      const from = start % pieceLength
      const end = Math.min(pieceLength, from + first + count - start)
      const piece = this.#pieces[Math.floor(start / pieceLength)]
      if (piece && !isZero(piece.subarray(from, end))) return false
      start += end - from
    }
    return true
  }

  /** Whether any count is above a limit. */
  exceeds(limit: number): boolean {
    if (limit < large) return this.max() > limit
    for (const count of this.#large.values()) if (count > limit) return true
    return false
  }

  /** The highest count of all. */
  max(): number {
    let highest = 0
    for (const piece of this.#pieces) {
      if (piece) for (const count of piece) highest = Math.max(highest, count)
    }
    for (const count of this.#large.values()) highest = Math.max(highest, count)
    return highest
  }

  set(cluster: number, value: number): void {
    this.#pieceOf(cluster)[cluster % pieceLength] = Math.min(value, large)
    if (value >= large) this.#large.set(cluster, value)
    else this.#large.delete(cluster)
  }

  /** First cluster of each piece in which something was counted, in order. */
  *pieceStarts(): Generator<number> {
    for (const key of Object.keys(this.#pieces)) yield Number(key) * pieceLength
  }

  /** Whether the counts of a whole piece are the same. */
  samePiece(other: Counts, start: number): boolean {
    const index = Math.floor(start / pieceLength)
    const own = this.#pieces[index] ?? noCounts
    const its = other.#pieces[index] ?? noCounts
    if (Buffer.compare(own, its) !== 0) return false
    return !own.includes(large)
  }

  /** The last cluster with a count, or -1. */
  highest(): number {
    for (let index = this.#pieces.length - 1; index >= 0; index--) {
      const piece = this.#pieces[index]
      if (!piece || isZero(piece)) continue
      let end = pieceLength
      while (isZero(piece.subarray(end - longRun, end))) end -= longRun
      while (piece[end - 1] === 0) end--
      return index * pieceLength + end - 1
    }
    return -1
  }

  clone(): Counts {
    const copy = new Counts()
    for (const [index, piece] of Object.entries(this.#pieces)) {
      copy.#pieces[Number(index)] = piece?.slice()
    }
    for (const [cluster, count] of this.#large) copy.#large.set(cluster, count)
    return copy
  }

  #pieceOf(cluster: number): Uint8Array {
    const index = Math.floor(cluster / pieceLength)
    this.#pieces[index] ??= new Uint8Array(pieceLength)
    return this.#pieces[index]
  }
}

/** From this length on a native call is faster than a loop. */
const longRun = 64

const allOne = new Uint8Array(pieceLength).fill(1)
const noCounts = new Uint8Array(pieceLength)
