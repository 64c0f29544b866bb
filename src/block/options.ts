/**
 * Reading options that come from QMP (typed), from `-o a=b,c=d` (text) or from a library caller.
 * Each option is taken once; `finish` refuses what nobody asked for, so a typing error is heard.
 */
import { BlockError, invalid } from '../errors.ts'
import type { NodeReference } from './driver.ts'

/** What a word says, where options are text: QEMU knows four for either. */
export function booleanOf(value: unknown): boolean | undefined {
  if (value === 'on' || value === 'yes' || value === 'true' || value === 'y') return true
  if (value === 'off' || value === 'no' || value === 'false' || value === 'n') return false
  return undefined
}

export class OptionReader {
  readonly #left: Map<string, unknown>

  constructor(options: Readonly<Record<string, unknown>>) {
    this.#left = new Map(Object.entries(options).filter(([, value]) => value !== undefined))
  }

  has(name: string): boolean {
    return this.#left.has(name)
  }

  /** The value as it came, or undefined. */
  take(name: string): unknown {
    const value = this.#left.get(name)
    this.#left.delete(name)
    return value
  }

  string(name: string): string | undefined {
    const value = this.take(name)
    if (value === undefined || typeof value === 'string') return value
    throw mistyped(name, 'string')
  }

  requiredString(name: string): string {
    const value = this.string(name)
    if (value === undefined) throw missing(name)
    return value
  }

  boolean(name: string): boolean | undefined {
    const value = this.take(name)
    if (value === undefined || typeof value === 'boolean') return value
    const said = booleanOf(value)
    if (said !== undefined) return said
    throw typeof value === 'string'
      ? new BlockError('INVALID_ARGUMENT', `Parameter '${name}' expects 'on' or 'off'`)
      : mistyped(name, 'boolean')
  }

  /** A count or a size without a unit. */
  integer(name: string): number | undefined {
    const value = this.take(name)
    if (value === undefined) return undefined
    const number = typeof value === 'string' && /^-?\d+$/.test(value) ? Number(value) : value
    if (typeof number === 'number' && Number.isSafeInteger(number)) return number
    throw mistyped(name, 'integer')
  }

  /** Bytes: a number, or text with an optional unit as in `parseSize`. */
  bytes(name: string): number | undefined {
    const value = this.take(name)
    if (value === undefined) return undefined
    const size = typeof value === 'string' ? parseSize(value) : value
    if (typeof size === 'number' && Number.isSafeInteger(size) && size >= 0) return size
    throw new BlockError(
      'INVALID_ARGUMENT',
      `Parameter '${name}' expects a non-negative number below 2^64`,
    )
  }

  oneOf<const T extends string>(name: string, allowed: readonly T[]): T | undefined {
    const value = this.string(name)
    if (value === undefined || (allowed as readonly string[]).includes(value)) return value as T
    throw new BlockError('INVALID_ARGUMENT', `Parameter '${name}' does not accept value '${value}'`)
  }

  /** An array, or what dotted keys with numbers (`name.0`, `name.1`, …) make of one. */
  list(name: string): readonly unknown[] | undefined {
    const value = this.take(name)
    if (value === undefined || Array.isArray(value)) return value
    if (typeof value !== 'object' || value === null) throw new UnknownOption(name)
    const elements = Object.entries(value)
    return Array.from(elements, (_, index) => {
      const found = elements.find(([key]) => key === String(index))
      if (found) return found[1]
      const stray = elements.find(([key]) => !/^\d+$/.test(key) || Number(key) >= elements.length)
      const [key, member] = stray ?? [String(index), undefined]
      throw new UnknownOption(leafName(`${name}.${key}`, member))
    })
  }

  /** Names of the options that nobody has taken. */
  left(): Iterable<string> {
    return this.#left.keys()
  }

  /** Throws when an option is left that nobody has taken. */
  finish(): void {
    for (const [name, value] of this.#left) throw new UnknownOption(leafName(name, value))
  }
}

/** An option that its driver does not have; whoever knows the driver may say so in other words. */
export class UnknownOption extends BlockError {
  readonly option: string

  constructor(option: string) {
    super('INVALID_ARGUMENT', `Parameter '${option}' is unexpected`)
    this.option = option
  }
}

/** The first member of an object, with dots, as it was written. */
function leafName(name: string, value: unknown): string {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return name
  for (const [key, member] of Object.entries(value)) return leafName(`${name}.${key}`, member)
  return name
}

/** The node that a filter or format stands on. */
export function takeFile(reader: OptionReader, name = 'file'): NodeReference {
  const reference = reader.take(name)
  if (reference !== undefined) return reference as NodeReference
  throw invalid(`A block device must be specified for "${name}"`)
}

/** The options of a driver that takes nothing but the node below it. */
export function parseFileOnly(options: Readonly<Record<string, unknown>>): {
  readonly file: NodeReference
} {
  const reader = new OptionReader(options)
  const file = takeFile(reader)
  reader.finish()
  return { file }
}

/**
 * Bytes of `64k`, `1.5G`, `512`: a decimal number and one of b, k, M, G, T, P, E (powers of 1024,
 * either case). Undefined when it is none, or beyond 2^53.
 */
export function parseSize(text: string): number | undefined {
  const match = /^(\d+(?:\.\d*)?|\.\d+|0x[0-9a-f]+)([bkmgtpe]?)$/i.exec(text.trim())
  if (!match) return undefined
  const unit = 'bkmgtpe'.indexOf(match[2].toLowerCase() || 'b')
  const size = Number(match[1]) * 1024 ** unit
  const whole = Math.round(size)
  return Number.isSafeInteger(whole) ? whole : undefined
}

export function missing(name: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', `Parameter '${name}' is missing`)
}

function mistyped(name: string, expected: string): BlockError {
  return new BlockError(
    'INVALID_ARGUMENT',
    `Invalid parameter type for '${name}', expected: ${expected}`,
  )
}
