/**
 * The lanes of page checksums with the processor's vectors, as WebAssembly has them: a vector holds
 * the four lanes of a page, and eight pages are gone through together, since a product takes longer
 * than it takes to begin the next seven. The module is put together here, opcode by opcode; the
 * tests hold its results against those of `plain-lanes.ts`.
 */
import type { Lanes } from './page-sum.ts'
import { laneBytes, laneFactor, laneRotation, laneStarts } from './plain-lanes.ts'

/** The part that is used here; the types of Node do not have it. */
declare const WebAssembly: {
  validate(bytes: Uint8Array): boolean
  readonly Memory: new (size: { initial: number; maximum: number }) => { buffer: ArrayBuffer }
  readonly Module: new (bytes: Uint8Array) => object
  readonly Instance: new (module: object, imports: object) => { readonly exports: Exports }
}

interface Exports {
  /** Goes through the pages in front of which memory begins; `end` is that of the first. */
  readonly run: (end: number) => void
}

const together = 8

const wasmPage = 65536

export class VectorLanes implements Lanes {
  readonly together = together
  readonly #pages: Uint8Array
  readonly #lanes: DataView
  readonly #run: Exports['run']
  readonly #pageSize: number

  private constructor(pageSize: number, memory: ArrayBuffer, run: Exports['run']) {
    const length = together * pageSize
    this.#pages = new Uint8Array(memory, 0, length)
    this.#lanes = new DataView(memory, length, together * laneBytes)
    this.#run = run
    this.#pageSize = pageSize
  }

  /** Undefined where there are no vectors. */
  static for(pageSize: number): VectorLanes | undefined {
    const code = moduleFor(pageSize)
    if (typeof WebAssembly === 'undefined' || !WebAssembly.validate(code)) return undefined
    const initial = Math.ceil((together * (pageSize + laneBytes)) / wasmPage)
    const memory = new WebAssembly.Memory({ initial, maximum: initial })
    const { exports } = new WebAssembly.Instance(new WebAssembly.Module(code), { it: { memory } })
    return new VectorLanes(pageSize, memory.buffer, exports.run)
  }

  run(pages: Uint8Array): DataView {
    this.#pages.set(pages)
    this.#run(this.#pageSize)
    return this.#lanes
  }
}

/** WebAssembly core specification 2.0, section 5 (binary format). */
const section = { type: 1, import: 2, function: 3, export: 7, code: 10 }
const i32 = 0x7f
const v128 = 0x7b
const func = 0x60
const memoryKind = 2
const op = {
  loop: [0x03, 0x40],
  end: [0x0b],
  branchIf: [0x0d],
  get: [0x20],
  set: [0x21],
  tee: [0x22],
  i32const: [0x41],
  i32lessThan: [0x49],
  i32add: [0x6a],
  load: [0xfd, 0x00],
  store: [0xfd, 0x0b],
  constant: [0xfd, 0x0c],
  or: [0xfd, 0x50],
  xor: [0xfd, 0x51],
  shiftLeft: [0xfd, 0xab, 0x01],
  shiftRight: [0xfd, 0xad, 0x01],
  multiply: [0xfd, 0xb5, 0x01],
}

/** Locals: the parameter, where to read, and a vector for each page. */
const end = 0
const at = 1
const factor = 2
const firstPage = 3

function moduleFor(pageSize: number): Uint8Array {
  const pages = Array.from({ length: together }, (_, page) => page)
  const laneOf = (page: number) => [firstPage + page]
  const code = [
    ...[...vectorOf([laneFactor, laneFactor, laneFactor, laneFactor]), ...op.set, factor],
    ...pages.flatMap((page) => [...vectorOf(laneStarts), ...op.set, ...laneOf(page)]),
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
    ...op.end,
  ]
  const locals = [2, 1, i32, 1 + together, v128]
  return Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...sized(section.type, [1, func, 1, i32, 0]),
    ...sized(section.import, [1, ...name('it'), ...name('memory'), memoryKind, 0, 1]),
    ...sized(section.function, [1, 0]),
    ...sized(section.export, [1, ...name('run'), 0, 0]),
    ...sized(section.code, [1, ...counted([...locals, ...code])]),
  ])
}

function vectorOf(words: readonly number[]): number[] {
  const bytes = Buffer.alloc(laneBytes)
  for (const [index, word] of words.entries()) bytes.writeUInt32LE(word, index * 4)
  return [...op.constant, ...bytes]
}

/** An offset into memory, behind the exponent of its alignment. */
function place(offset: number): number[] {
  return [4, ...leb128(offset)]
}

function name(text: string): number[] {
  return counted([...Buffer.from(text)])
}

function counted(bytes: readonly number[]): number[] {
  return [...leb128(bytes.length), ...bytes]
}

function sized(id: number, bytes: readonly number[]): number[] {
  return [id, ...counted(bytes)]
}

function leb128(value: number): number[] {
  return value < 128 ? [value] : [(value % 128) + 128, ...leb128(Math.floor(value / 128))]
}
