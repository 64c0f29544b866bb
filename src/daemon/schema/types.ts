/**
 * The types of QMP's arguments and results, as values. From one declaration come the check of
 * what a client sends, the introspection, the manual, and (through `Value`) the TypeScript type
 * that a command's handler works with.
 */

/** Carries `T` for the compiler only. */
interface Typed<T> {
  readonly __value?: T
}

export type Builtin = 'str' | 'int' | 'number' | 'bool' | 'null' | 'any'

/** Integers have a range; the text is what QEMU calls it in errors. */
export interface BuiltinType<T = unknown> extends Typed<T> {
  readonly kind: 'builtin'
  readonly builtin: Builtin
  readonly range?: { readonly min: bigint; readonly max: bigint; readonly text: string }
  /** Whether command lines may say it as `4k`. */
  readonly hasUnits?: boolean
}

export interface EnumType<T = unknown> extends Typed<T> {
  readonly kind: 'enum'
  readonly name: string
  readonly values: readonly string[]
}

export interface ArrayType<T = unknown> extends Typed<T> {
  readonly kind: 'array'
  readonly of: Type
}

export interface Member<T = unknown, Optional extends boolean = boolean> {
  readonly type: Type<T>
  readonly optional: Optional
  readonly doc: string
  readonly features?: readonly string[]
}

/**
 * An object; with a tag, the tagged member's value decides which variant's members it has too.
 * The variants are asked for late, since a variant may hold the union itself.
 */
export interface ObjectType<T = unknown> extends Typed<T> {
  readonly kind: 'object'
  readonly name: string
  readonly members: Readonly<Record<string, Member>>
  readonly tag?: string
  readonly variants?: () => Readonly<Record<string, ObjectType>>
}

/** One of several types that JSON tells apart: a string or an object, for instance. */
export interface AlternateType<T = unknown> extends Typed<T> {
  readonly kind: 'alternate'
  readonly name: string
  readonly branches: () => readonly Type[]
}

export type Type<T = unknown> =
  | BuiltinType<T>
  | EnumType<T>
  | ArrayType<T>
  | ObjectType<T>
  | AlternateType<T>

/** The TypeScript type of what a `Type` describes. */
export type Value<D> = D extends Typed<infer T> ? T : never

type Members = Readonly<Record<string, Member<unknown, boolean>>>
type Required<M> = { [K in keyof M as M[K] extends Member<unknown, false> ? K : never]: M[K] }
type Optional<M> = { [K in keyof M as M[K] extends Member<unknown, false> ? never : K]: M[K] }
type MemberValue<M> = M extends { readonly type: Type<infer T> } ? T : never
type ObjectValue<M> = {
  readonly [K in keyof Required<M>]: MemberValue<M[K & keyof M]>
} & {
  readonly [K in keyof Optional<M>]?: MemberValue<M[K & keyof M]>
}
type UnionValue<M, Tag extends string, V> = {
  [K in keyof V]: Omit<ObjectValue<M>, Tag> & { readonly [T in Tag]: K } & Value<V[K]>
}[keyof V]

const signed = (bits: bigint) => ({ min: -(2n ** (bits - 1n)), max: 2n ** (bits - 1n) - 1n })
const unsigned = (bits: bigint) => ({ min: 0n, max: 2n ** bits - 1n })

export const str: BuiltinType<string> = { kind: 'builtin', builtin: 'str' }
export const bool: BuiltinType<boolean> = { kind: 'builtin', builtin: 'bool' }
export const any: BuiltinType<unknown> = { kind: 'builtin', builtin: 'any' }
export const nothing: BuiltinType<null> = { kind: 'builtin', builtin: 'null' }
/** A signed integer of 64 bits; beyond 2^53 a bigint. */
export const int: BuiltinType<number> = {
  kind: 'builtin',
  builtin: 'int',
  range: { ...signed(64n), text: 'int64' },
}
export const int32: BuiltinType<number> = {
  kind: 'builtin',
  builtin: 'int',
  range: { ...signed(32n), text: 'int32_t' },
}
export const uint16: BuiltinType<number> = {
  kind: 'builtin',
  builtin: 'int',
  range: { ...unsigned(16n), text: 'uint16_t' },
}
export const uint32: BuiltinType<number> = {
  kind: 'builtin',
  builtin: 'int',
  range: { ...unsigned(32n), text: 'uint32_t' },
}
export const uint64: BuiltinType<number> = {
  kind: 'builtin',
  builtin: 'int',
  range: { ...unsigned(64n), text: 'uint64' },
}
/** Bytes: on a command line with a unit, `4k`. */
export const size: BuiltinType<number> = { ...uint64, hasUnits: true }

export function enumeration<const T extends string>(
  name: string,
  values: readonly T[],
): EnumType<T> {
  return { kind: 'enum', name, values }
}

export function list<T>(of: Type<T>): ArrayType<readonly T[]> {
  return { kind: 'array', of }
}

export function required<T>(type: Type<T>, doc: string): Member<T, false> {
  return { type, optional: false, doc }
}

export function optional<T>(
  type: Type<T>,
  doc: string,
  features?: readonly string[],
): Member<T, true> {
  return { type, optional: true, doc, features }
}

export function object<const M extends Members>(
  name: string,
  members: M,
): ObjectType<ObjectValue<M>> {
  return { kind: 'object', name, members }
}

/** `tag` names the required member of `members`, an enumeration, that chooses the variant. */
export function union<
  const M extends Members,
  const Tag extends string & keyof M,
  const V extends Readonly<Record<string, ObjectType>>,
>(name: string, members: M, tag: Tag, variants: () => V): ObjectType<UnionValue<M, Tag, V>> {
  return { kind: 'object', name, members, tag, variants }
}

export function alternate<T>(name: string, branches: () => readonly Type[]): AlternateType<T> {
  return { kind: 'alternate', name, branches }
}

/** No members; what commands without arguments take and those without a result return. */
export const empty: ObjectType<Record<never, never>> = object('Empty', {})
