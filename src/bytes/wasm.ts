/**
 * Small functions for the processor's vectors, which JavaScript has only through WebAssembly. They are put
 * together opcode by opcode and run at full speed from the first call on, where a loop in JavaScript
 * is interpreted first.
 *
 * WebAssembly core specification 2.0, section 5 (binary format).
 */

/** The part that is used here; the types of Node do not have it. */
declare const WebAssembly: {
  validate(bytes: Uint8Array): boolean
  readonly Memory: new (size: { initial: number; maximum: number }) => { buffer: ArrayBuffer }
  readonly Module: new (bytes: Uint8Array) => object
  readonly Instance: new (
    module: object,
    imports: object,
  ) => {
    readonly exports: { readonly run: (...values: number[]) => number }
  }
}

export const type = { i32: 0x7f, v128: 0x7b }

export const op = {
  loop: [0x03, 0x40],
  ifThen: [0x04, 0x40],
  end: [0x0b],
  branchIf: [0x0d],
  return: [0x0f],
  get: [0x20],
  set: [0x21],
  tee: [0x22],
  i32const: [0x41],
  i32lessThan: [0x49],
  i32add: [0x6a],
  load: [0xfd, 0x00],
  store: [0xfd, 0x0b],
  constant: [0xfd, 0x0c],
  swizzle: [0xfd, 0x0e],
  or: [0xfd, 0x50],
  xor: [0xfd, 0x51],
  anyTrue: [0xfd, 0x53],
  shiftLeft: [0xfd, 0xab, 0x01],
  shiftRight: [0xfd, 0xad, 0x01],
  add32: [0xfd, 0xae, 0x01],
  multiply: [0xfd, 0xb5, 0x01],
  add64: [0xfd, 0xce, 0x01],
}

/** A vector that is the same always; 16 bytes. */
export function vector(bytes: Iterable<number>): number[] {
  return [...op.constant, ...bytes]
}

/** What follows `load` and `store`: a fixed offset, added to the address, behind the alignment of nothing. */
export function place(offset: number): number[] {
  return [0, ...leb128(offset)]
}

export interface FunctionCode {
  /** How many; each an i32, numbered from 0. */
  readonly parameters: number
  /** It returns an i32. */
  readonly returns?: boolean
  /** How many of which type, numbered behind the parameters. */
  readonly locals: readonly (readonly [count: number, type: number])[]
  /** Opcodes, without the end. */
  readonly code: readonly number[]
}

export interface VectorFunction {
  readonly memory: ArrayBuffer
  run(...values: number[]): number
}

const page = 65536

/**
 * A function and the memory that it works on, of at least `length` bytes, all zero. Undefined where there
 * are no vectors, or no WebAssembly at all.
 */
export function withVectors(length: number, code: FunctionCode): VectorFunction | undefined {
  if (typeof WebAssembly === 'undefined') return undefined
  const bytes = moduleOf(code)
  if (!WebAssembly.validate(bytes)) return undefined
  const pages = Math.ceil(length / page)
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages })
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(bytes), { it: { memory } })
  return { memory: memory.buffer, run: exports.run }
}

const section = { type: 1, import: 2, function: 3, export: 7, code: 10 }
const func = 0x60
const memoryKind = 2

function moduleOf({ parameters, returns, locals, code }: FunctionCode): Uint8Array {
  const taken = counted(Array.from({ length: parameters }, () => type.i32))
  const given = returns ? [1, type.i32] : [0]
  const declared = [locals.length, ...locals.flat()]
  return Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...sized(section.type, [1, func, ...taken, ...given]),
    ...sized(section.import, [1, ...name('it'), ...name('memory'), memoryKind, 0, 1]),
    ...sized(section.function, [1, 0]),
    ...sized(section.export, [1, ...name('run'), 0, 0]),
    ...sized(section.code, [1, ...counted([...declared, ...code, ...op.end])]),
  ])
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
