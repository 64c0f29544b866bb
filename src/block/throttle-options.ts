/** `throttle-group` objects as people write them: `--object throttle-group,…` and `object-add`. */
import { invalid } from '../errors.ts'
import { OptionReader } from './options.ts'
import { badIdentifier, duplicate, isIdentifier } from './secrets.ts'
import { ThrottleGroup } from './throttle-group.ts'
import { changedLimits, limitNames, noLimits, type ThrottleLimits } from './throttle-limits.ts'

type Changes = Readonly<Record<string, number | undefined>>

/** Groups that the command line has made. */
export class ThrottleGroupTable {
  readonly #groups = new Map<string, ThrottleGroup>()

  get(id: string): ThrottleGroup | undefined {
    return this.#groups.get(id)
  }

  /** Its type taken off. */
  add({ id, ...options }: Readonly<Record<string, unknown>>): void {
    if (id === undefined) throw invalid("Parameter 'id' is missing")
    if (typeof id !== 'string' || !isIdentifier(id)) throw badIdentifier()
    if (this.#groups.has(id)) throw duplicate(id)
    this.#groups.set(id, new ThrottleGroup(parseThrottleGroup(options)))
  }
}

/** The properties `limits` and `x-…`; numbers may be text. */
export function parseThrottleGroup(options: Readonly<Record<string, unknown>>): ThrottleLimits {
  const reader = new OptionReader(options)
  const changes: Record<string, number | undefined> = {}
  for (const name of limitNames) {
    const value = number(reader, `x-${name}`)
    if (value !== undefined && value < 0) throw invalid('Property values cannot be negative')
    changes[name] = value
  }
  const limits = reader.take('limits')
  reader.finish()
  return changedLimits(noLimits, { ...changes, ...parseLimits(limits) })
}

/** A `ThrottleLimits`: only what is to change. */
export function parseLimits(limits: unknown): Changes {
  if (limits === undefined) return {}
  if (typeof limits !== 'object' || limits === null || Array.isArray(limits)) {
    throw invalid("Invalid parameter type for 'limits', expected: object")
  }
  const reader = new OptionReader(limits as Readonly<Record<string, unknown>>)
  const changes: Record<string, number> = {}
  for (const name of limitNames) {
    const value = number(reader, name)
    if (value !== undefined) changes[name] = value
  }
  for (const name of reader.left()) throw invalid(`Parameter 'limits.${name}' is unexpected`)
  return changes
}

function number(reader: OptionReader, name: string): number | undefined {
  const value = reader.take(name)
  if (value === undefined) return undefined
  const found = typeof value === 'string' && /^-?\d+$/.test(value) ? Number(value) : value
  if (typeof found === 'number' && Number.isInteger(found)) return found
  if (typeof found === 'bigint') return Number(found)
  throw invalid(`Parameter '${name}' expects integer`)
}
