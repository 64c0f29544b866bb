/**
 * Checks what a client sent against its declared type. The texts of errors are those of QEMU's
 * visitors, down to which of them name a member with its path and which without.
 *
 * Values come typed, from JSON, or as the strings of `key=value` options; the latter are converted
 * on the way.
 */
import { booleanOf, parseSize } from '../../block/options.ts'
import { type BlockError, invalid } from '../../errors.ts'
import type { Member, ObjectType, Type } from './types.ts'

export type Notation = 'json' | 'keyval'

/** The value as handlers get it. Throws `INVALID_ARGUMENT`. */
export function check<T>(type: Type<T>, value: unknown, notation: Notation = 'json'): T {
  return visit(type, value, '', notation) as T
}

function visit(type: Type, value: unknown, path: string, notation: Notation): unknown {
  switch (type.kind) {
    case 'builtin':
      return visitBuiltin(type, value, path, notation)
    case 'enum':
      return visitEnum(type.values, value, path)
    case 'array':
      if (!Array.isArray(value)) throw mistyped(path, 'array')
      return value.map((each, index) =>
        visit(type.of, each, element(path, index, notation), notation),
      )
    case 'object':
      return visitObject(type, value, path, notation)
    case 'alternate': {
      const branch = type.branches().find((each) => accepts(each, value))
      if (!branch) throw mistyped(lastName(path), type.name)
      return visit(branch, value, path, notation)
    }
  }
}

function visitBuiltin(
  { builtin, range, hasUnits }: Type & { kind: 'builtin' },
  value: unknown,
  path: string,
  notation: Notation,
): unknown {
  switch (builtin) {
    case 'any':
      return value
    case 'null':
      if (value !== null) throw mistyped(path, 'null')
      return value
    case 'str':
      if (typeof value !== 'string') throw mistyped(path, 'string')
      return value
    case 'bool':
      return visitBoolean(value, path, notation)
    case 'number':
      if (typeof value !== 'number') throw mistyped(path, 'number')
      return value
    case 'int': {
      if (hasUnits && notation === 'keyval' && typeof value === 'string') {
        const bytes = parseSize(value)
        if (bytes === undefined) throw invalid(`Parameter '${path}' expects size`)
        return bytes
      }
      const number = toInteger(value, path, notation, range?.text)
      // QEMU takes a negative number for the high one of the same bits; what it means, its user says.
      if (range?.text === 'uint64' && notation !== 'keyval' && number < 0) return number
      if (!range || (BigInt(number) >= range.min && BigInt(number) <= range.max)) return number
      throw range.text === 'int64'
        ? mistyped(path, 'integer')
        : invalid(`Parameter '${lastName(path)}' expects ${range.text}`)
    }
  }
}

function visitBoolean(value: unknown, path: string, notation: Notation): boolean {
  if (notation === 'keyval' && typeof value === 'string') {
    const said = booleanOf(value)
    if (said !== undefined) return said
    throw invalid(`Parameter '${path}' expects 'on' or 'off'`)
  }
  if (typeof value !== 'boolean') throw mistyped(path, 'boolean')
  return value
}

function toInteger(
  value: unknown,
  path: string,
  notation: Notation,
  rangeText = 'int64',
): number | bigint {
  if (notation === 'keyval' && typeof value === 'string') {
    if (!/^[+-]?(\d+|0x[0-9a-f]+)$/i.test(value)) {
      throw invalid(`Parameter '${path}' expects integer`)
    }
    const sign = value.startsWith('-') ? -1n : 1n
    const exact = sign * BigInt(value.replace(/^[+-]/, ''))
    const number = Number(exact)
    return Number.isSafeInteger(number) ? number : exact
  }
  if (typeof value === 'bigint') return value
  if (typeof value === 'number' && Number.isSafeInteger(value)) return value
  throw rangeText.startsWith('uint')
    ? invalid(`Parameter '${path}' expects uint64`)
    : mistyped(path, 'integer')
}

function visitEnum(values: readonly string[], value: unknown, path: string): string {
  if (typeof value !== 'string') throw mistyped(path, 'string')
  if (values.includes(value)) return value
  throw invalid(`Parameter '${lastName(path)}' does not accept value '${value}'`)
}

function visitObject(
  type: ObjectType,
  value: unknown,
  path: string,
  notation: Notation,
): Record<string, unknown> {
  if (!isObject(value)) throw mistyped(path, 'object')
  const given = new Map(Object.entries(value))
  const result = visitMembers(type.members, given, path, notation)
  if (type.tag !== undefined) {
    const variant = type.variants?.()[result[type.tag] as string]
    if (variant) Object.assign(result, visitMembers(variant.members, given, path, notation))
  }
  const [unexpected] = given.keys()
  if (unexpected !== undefined) {
    throw invalid(`Parameter '${join(path, unexpected)}' is unexpected`)
  }
  return result
}

/** Takes the members out of `given`. */
function visitMembers(
  members: Readonly<Record<string, Member>>,
  given: Map<string, unknown>,
  path: string,
  notation: Notation,
): Record<string, unknown> {
  const result: Record<string, unknown> = {}
  for (const [name, member] of Object.entries(members)) {
    const where = join(path, name)
    if (!given.has(name)) {
      if (!member.optional) throw invalid(`Parameter '${where}' is missing`)
      continue
    }
    result[name] = visit(member.type, given.get(name), where, notation)
    given.delete(name)
  }
  return result
}

/** Whether a value is of the JSON type that a branch of an alternate stands for. */
function accepts(type: Type, value: unknown): boolean {
  switch (type.kind) {
    case 'object':
      return isObject(value)
    case 'array':
      return Array.isArray(value)
    case 'enum':
      return typeof value === 'string'
    case 'builtin':
      if (type.builtin === 'str') return typeof value === 'string'
      if (type.builtin === 'null') return value === null
      return type.builtin === 'any'
    default:
      return false
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function join(path: string, name: string): string {
  return path === '' ? name : `${path}.${name}`
}

function element(path: string, index: number, notation: Notation): string {
  return notation === 'keyval' ? `${path}.${index}` : `${path}[${index}]`
}

/** Elements of lists have no name, which QEMU prints as `null`. */
function lastName(path: string): string {
  return /\]$|\.\d+$/.test(path) ? 'null' : (path.split('.').at(-1) as string)
}

function mistyped(path: string, expected: string): BlockError {
  return invalid(`Invalid parameter type for '${path}', expected: ${expected}`)
}
