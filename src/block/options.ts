/**
 * Reading options that come from QMP (typed), from `-o a=b,c=d` (text) or from a library caller.
 * Each option is taken once; `finish` refuses what nobody asked for, so a typing error is heard.
 */
import { BlockError } from '../errors.ts'

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
    if (value === 'on' || value === 'yes' || value === 'true' || value === 'y') return true
    if (value === 'off' || value === 'no' || value === 'false' || value === 'n') return false
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

  /** Throws when an option is left that nobody has taken. */
  finish(): void {
    for (const name of this.#left.keys()) {
      throw new BlockError('INVALID_ARGUMENT', `Parameter '${name}' is unexpected`)
    }
  }
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
  const whole = Math.floor(size)
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
