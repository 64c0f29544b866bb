/**
 * Finds how far the entries of an L2 table go on as consecutive clusters. The tables of an image with a
 * million clusters are looked at once each, before V8 has a loop compiled, so the processor's
 * vectors do it: 2 ms instead of 12.
 */
import { op, place, type, vector, withVectors } from '../../../bytes/wasm.ts'
import { countRun, entrySize } from '../l2-table.ts'

const two32 = 2 ** 32

/** Where what two entries should be is kept, what they rise by, and the table. */
const expectedAt = 0
const riseAt = 16
const tableAt = 32

const pair = 2 * entrySize

/** So many entries are looked at one by one first: it does not pay for less. */
const alone = 32

export class EntryRuns {
  /** The table that is looked at: one after the other is read into it. */
  readonly table: Uint8Array
  readonly #view: DataView
  /** Behind which byte of memory the pairs are not as expected, from one to another. */
  readonly #firstUnlike: ((at: number, end: number) => number) | undefined
  readonly #expected: DataView
  readonly #step: number

  /** Entries are to rise by the cluster size, which is `step`. */
  constructor(length: number, step: number) {
    const vectors = withVectors(tableAt + length, code)
    const memory = vectors?.memory ?? new ArrayBuffer(tableAt + length)
    this.table = new Uint8Array(memory, tableAt, length)
    this.#view = new DataView(memory, tableAt, length)
    this.#expected = new DataView(memory, 0, tableAt)
    this.#firstUnlike = vectors?.run
    this.#step = step
    for (const at of [riseAt, riseAt + entrySize]) this.#expected.setUint32(at, 2 * step, true)
  }

  /** How many entries from `index` on, at most `limit`, follow each other; the first is `high` and `low`. */
  length(index: number, limit: number, high: number, low: number): number {
    const first = countRun(this.#view, index, Math.min(limit, alone), high, low, this.#step)
    if (first < alone) return first
    const pairs = Math.floor((limit - first) / 2)
    if (!this.#firstUnlike || pairs === 0) return first + this.#rest(index, first, limit, high, low)
    this.#expect(expectedAt, high, low + first * this.#step)
    this.#expect(expectedAt + entrySize, high, low + (first + 1) * this.#step)
    const at = tableAt + (index + first) * entrySize
    const alike = first + (this.#firstUnlike(at, at + pairs * pair) - at) / entrySize
    return alike + this.#rest(index, alike, limit, high, low)
  }

  /** How many entries behind the first `alike` of a run belong to it as well. */
  #rest(index: number, alike: number, limit: number, high: number, low: number): number {
    const next = low + alike * this.#step
    const nextHigh = high + Math.floor(next / two32)
    return countRun(this.#view, index + alike, limit - alike, nextHigh, next % two32, this.#step)
  }

  /** `low` may be larger than 32 bits hold. */
  #expect(at: number, high: number, low: number): void {
    this.#expected.setUint32(at, low % two32, true)
    this.#expected.setUint32(at + 4, high + Math.floor(low / two32), true)
  }
}

/** Locals: the two parameters, what a pair should be, what it rises by. */
const at = 0
const end = 1
const expected = 2
const rise = 3

/** Entries are big-endian. */
const reversed = vector([7, 6, 5, 4, 3, 2, 1, 0, 15, 14, 13, 12, 11, 10, 9, 8])

const code = {
  parameters: 2,
  returns: true,
  locals: [[2, type.v128]] as const,
  code: [
    ...[...op.i32const, 0, ...op.load, ...place(expectedAt), ...op.set, expected],
    ...[...op.i32const, 0, ...op.load, ...place(riseAt), ...op.set, rise],
    ...op.loop,
    ...[...op.get, at, ...op.load, ...place(0), ...reversed, ...op.swizzle],
    ...[...op.get, expected, ...op.xor, ...op.anyTrue],
    ...[...op.ifThen, ...op.get, at, ...op.return, ...op.end],
    ...[...op.get, expected, ...op.get, rise, ...op.add64, ...op.set, expected],
    ...[...op.get, at, ...op.i32const, pair, ...op.i32add, ...op.tee, at],
    ...[...op.get, end, ...op.i32lessThan, ...op.branchIf, 0, ...op.end],
    ...[...op.get, at],
  ],
}
