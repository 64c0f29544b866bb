/** Arguments with one thing wrong. */
import type { Random } from '../random.ts'

export type Value =
  | string
  | number
  | boolean
  | null
  | readonly Value[]
  | { readonly [name: string]: Value }
export type Members = Readonly<Record<string, Value>>

/** A copy in which one member, at any depth, is missing, of another type, or not what it should be. */
export function spoilt(args: Members, random: Random): Members {
  const names = Object.keys(args)
  if (names.length === 0 || random.chance(0.1)) return { ...args, 'x-more': 1 }
  const name = random.pick(names)
  const { [name]: value, ...rest } = args
  if (typeof value === 'object' && value !== null && random.chance(0.7)) {
    return { ...args, [name]: spoiltWithin(value, random) }
  }
  return random.chance(0.3) ? rest : { ...args, [name]: otherThan(value, random) }
}

function spoiltWithin(value: readonly Value[] | Members, random: Random): Value {
  if (!Array.isArray(value)) return spoilt(value as Members, random)
  if (value.length === 0 || random.chance(0.1)) return [...value, random.pick([null, 1, 'x'])]
  const at = random.below(value.length)
  const element = value[at]
  const other =
    typeof element === 'object' && element !== null
      ? spoiltWithin(element as Members, random)
      : otherThan(element, random)
  return value.with(at, other)
}

function otherThan(value: Value, random: Random): Value {
  switch (typeof value) {
    case 'number':
      return random.pick([-1, 0, 1, 3, 511, 2 ** 53, value + 1, 2 ** 31, 1.5, '1', null])
    case 'boolean':
      return random.pick<Value>([!value, 'on', 1, null])
    case 'string':
      return random.pick<Value>(['', 'no-such', '1x', 'a'.repeat(40), 'a.raw', 7, null, {}, []])
    default:
      return random.pick<Value>(['', 1, null, [], {}])
  }
}
