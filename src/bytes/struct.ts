/**
 * The struct codec: an on-disk or on-wire structure is declared once, in the order, widths and
 * names of its specification, and gains `size`, `offsets`, `decode` and `encode`. It is for
 * structures read once per open (headers, footers, negotiation); tables that are consulted per
 * request have accessors of their own. Decoding does not judge: compare the values afterwards.
 */
import { BlockError } from '../errors.ts'
import { viewOf } from './view.ts'

export type ByteOrder = 'big' | 'little'

export interface Field<T> {
  readonly size: number
  get(bytes: Uint8Array, view: DataView, at: number, little: boolean): T
  set(bytes: Uint8Array, view: DataView, at: number, value: T, little: boolean): void
}

export const u8: Field<number> = {
  size: 1,
  get: (_, view, at) => view.getUint8(at),
  set: (_, view, at, value) => view.setUint8(at, value),
}

export const u16: Field<number> = {
  size: 2,
  get: (_, view, at, little) => view.getUint16(at, little),
  set: (_, view, at, value, little) => view.setUint16(at, value, little),
}

export const u32: Field<number> = {
  size: 4,
  get: (_, view, at, little) => view.getUint32(at, little),
  set: (_, view, at, value, little) => view.setUint32(at, value, little),
}

export const i32: Field<number> = {
  size: 4,
  get: (_, view, at, little) => view.getInt32(at, little),
  set: (_, view, at, value, little) => view.setInt32(at, value, little),
}

/** Signed 64 bits as a number; decoding a value beyond ±2^53 throws `CORRUPT_IMAGE`. */
export const i64: Field<number> = {
  size: 8,
  get: (_, view, at, little) => safe(view.getBigInt64(at, little), at),
  set: (_, view, at, value, little) => view.setBigInt64(at, BigInt(value), little),
}

/** 64 bits as a number; decoding a value beyond 2^53 throws `CORRUPT_IMAGE`. */
export const u64: Field<number> = {
  size: 8,
  get: (_, view, at, little) => safe(view.getBigUint64(at, little), at),
  set: (_, view, at, value, little) => view.setBigUint64(at, BigInt(value), little),
}

/**
 * 64 bits as a number, rounded beyond 2^53: for fields that are held against a limit before they are
 * used, and whose being beyond it is told in other words.
 */
export const anyU64: Field<number> = {
  size: 8,
  get: (_, view, at, little) => Number(view.getBigUint64(at, little)),
  set: (_, view, at, value, little) =>
    view.setBigUint64(at, value < 2 ** 64 ? BigInt(value) : 2n ** 64n - 1n, little),
}

/** 64 bits as a bigint: for feature masks, which are sets rather than numbers. */
export const bits64: Field<bigint> = {
  size: 8,
  get: (_, view, at, little) => view.getBigUint64(at, little),
  set: (_, view, at, value, little) => view.setBigUint64(at, value, little),
}

/** `size` raw bytes. Decoding copies; encoding a shorter value pads with zeros. */
export function bytes(size: number): Field<Uint8Array> {
  return {
    size,
    get: (source, _, at) => source.slice(at, at + size),
    set: (target, _, at, value) => {
      if (value.length > size) throw new RangeError(`${value.length} bytes in a field of ${size}`)
      target.fill(0, at, at + size)
      target.set(value, at)
    },
  }
}

/** `count` elements of one kind. */
export function array<T>(element: Field<T>, count: number): Field<T[]> {
  return {
    size: element.size * count,
    get: (source, view, at, little) =>
      Array.from({ length: count }, (_, index) =>
        element.get(source, view, at + index * element.size, little),
      ),
    set: (target, view, at, value, little) => {
      if (value.length !== count)
        throw new RangeError(`${value.length} elements instead of ${count}`)
      for (const [index, item] of value.entries()) {
        element.set(target, view, at + index * element.size, item, little)
      }
    },
  }
}

type Shape = Readonly<Record<string, Field<unknown>>>
export type Decoded<S> = { -readonly [K in keyof S]: S[K] extends Field<infer T> ? T : never }

export interface Struct<S> {
  /** Bytes the structure occupies. */
  readonly size: number
  /** Byte offset of each field. */
  readonly offsets: { readonly [K in keyof S]: number }
  /** Reads the structure at `at`. Throws `CORRUPT_IMAGE` when the bytes end before it does. */
  decode(source: Uint8Array, at?: number): Decoded<S>
  /** A new array of `size` bytes. */
  encode(value: Decoded<S>): Uint8Array
  /** Writes into `target` at `at`; bytes outside the structure are left alone. */
  encodeInto(target: Uint8Array, at: number, value: Decoded<S>): void
}

/** Declares a structure without padding: fields lie one behind the other. */
export function struct<S extends Shape>(order: ByteOrder, shape: S): Struct<S> {
  const little = order === 'little'
  const fields = Object.entries(shape)
  const offsets: Record<string, number> = {}
  let size = 0
  for (const [name, field] of fields) {
    offsets[name] = size
    size += field.size
  }

  const encodeInto = (target: Uint8Array, at: number, value: Record<string, unknown>) => {
    const view = viewOf(target)
    for (const [name, field] of fields) {
      field.set(target, view, at + offsets[name], value[name], little)
    }
  }

  return {
    size,
    offsets: offsets as { [K in keyof S]: number },
    decode(source, at = 0) {
      if (at + size > source.length) {
        throw new BlockError(
          'CORRUPT_IMAGE',
          `a structure of ${size} bytes is cut off after ${Math.max(0, source.length - at)}`,
          { offset: at },
        )
      }
      const view = viewOf(source)
      const value: Record<string, unknown> = {}
      for (const [name, field] of fields) {
        value[name] = field.get(source, view, at + offsets[name], little)
      }
      return value as Decoded<S>
    },
    encode(value) {
      const target = new Uint8Array(size)
      encodeInto(target, 0, value)
      return target
    },
    encodeInto,
  }
}

function safe(value: bigint, at: number): number {
  const number = Number(value)
  if (!Number.isSafeInteger(number)) {
    throw new BlockError(
      'CORRUPT_IMAGE',
      `the 64-bit field at byte ${at} holds ${value}, beyond 2^53`,
      {
        offset: at,
      },
    )
  }
  return number
}
