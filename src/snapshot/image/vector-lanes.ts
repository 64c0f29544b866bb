/**
 * The lanes of page checksums with the processor's vectors, as WebAssembly has them: a vector holds
 * the four lanes of a page, and eight pages are gone through together, since a product takes longer
 * than it takes to begin the next seven. The
 * tests hold its results against those of `plain-lanes.ts`.
 */
import {
  type FunctionCode,
  op,
  place,
  type,
  type VectorFunction,
  vector,
  withVectors,
} from '../../bytes/wasm.ts'
import type { Lanes } from './page-sum.ts'
import { laneBytes, laneFactor, laneRotation, laneStarts } from './plain-lanes.ts'

const together = 8

export class VectorLanes implements Lanes {
  readonly together = together
  readonly #pages: Uint8Array
  readonly #lanes: DataView
  /** Goes through the pages in front of which memory begins; it takes the end of the first. */
  readonly #run: VectorFunction['run']
  readonly #pageSize: number

  private constructor(pageSize: number, { memory, run }: VectorFunction) {
    const length = together * pageSize
    this.#pages = new Uint8Array(memory, 0, length)
    this.#lanes = new DataView(memory, length, together * laneBytes)
    this.#run = run
    this.#pageSize = pageSize
  }

  /** Undefined where there are no vectors. */
  static for(pageSize: number): VectorLanes | undefined {
    const lanes = withVectors(together * (pageSize + laneBytes), codeFor(pageSize))
    return lanes && new VectorLanes(pageSize, lanes)
  }

  run(pages: Uint8Array): DataView {
    this.#pages.set(pages)
    this.#run(this.#pageSize)
    return this.#lanes
  }
}

/** Locals: the parameter, where to read, and a vector for each page. */
const end = 0
const at = 1
const factor = 2
const firstPage = 3

function codeFor(pageSize: number): FunctionCode {
  const pages = Array.from({ length: together }, (_, page) => page)
  const laneOf = (page: number) => [firstPage + page]
  const code = [
    ...[...lanesVector([laneFactor, laneFactor, laneFactor, laneFactor]), ...op.set, factor],
    ...pages.flatMap((page) => [...lanesVector(laneStarts), ...op.set, ...laneOf(page)]),
    ...op.loop,
    ...pages.flatMap((page) => {
      const lane = [...op.get, ...laneOf(page)]
      return [
        ...[...lane, ...op.i32const, laneRotation, ...op.shiftLeft],
        ...[...lane, ...op.i32const, 32 - laneRotation, ...op.shiftRight, ...op.or],
        ...[...op.get, at, ...op.load, ...place(page * pageSize), ...op.xor],
        ...[...op.get, factor, ...op.multiply],
        ...[...op.set, ...laneOf(page)],
      ]
    }),
    ...[...op.get, at, ...op.i32const, laneBytes, ...op.i32add, ...op.tee, at],
    ...[...op.get, end, ...op.i32lessThan, ...op.branchIf, 0, ...op.end],
    ...pages.flatMap((page) => {
      const target = place(together * pageSize + page * laneBytes)
      return [...op.i32const, 0, ...op.get, ...laneOf(page), ...op.store, ...target]
    }),
  ]
  return {
    parameters: 1,
    locals: [
      [1, type.i32],
      [1 + together, type.v128],
    ],
    code,
  }
}

function lanesVector(words: readonly number[]): number[] {
  const bytes = Buffer.alloc(laneBytes)
  for (const [index, word] of words.entries()) bytes.writeUInt32LE(word, index * 4)
  return vector(bytes)
}
