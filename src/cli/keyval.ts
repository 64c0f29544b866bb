/**
 * QEMU's two notations of `key=value,key=value`. In both a comma inside a value is written twice,
 * and the first key may be left out where one is implied.
 *
 * `parseKeyval` is that of `--blockdev` and the other options that take the place of QMP: dots in
 * keys make objects, numbered keys make lists, everything is a string. `parseOptionString` is the
 * older one of `--image-opts` and `-o`: flat, and `name` alone means `name=on`.
 */
import { type BlockError, invalid } from '../errors.ts'

export type KeyvalValue = string | KeyvalValue[] | { [key: string]: KeyvalValue }

/**
 * Throws `INVALID_ARGUMENT` with QEMU's text. A key given twice: the last one counts. `onHelp` is
 * called when help is asked for: by `help` or `?`, on its own between commas.
 */
export function parseKeyval(
  text: string,
  impliedKey?: string,
  onHelp?: () => void,
): Record<string, KeyvalValue> {
  const flat = new Map<string, string>()
  for (const [index, pair] of splitPairs(text).entries()) {
    if (onHelp && (pair === 'help' || pair === '?')) {
      onHelp()
      continue
    }
    const implied = index === 0 ? impliedKey : undefined
    const [key, value] = keyAndValue(pair, implied)
    flat.set(key, value)
  }
  return listsIn(nest(flat), '') as Record<string, KeyvalValue>
}

function keyAndValue(pair: string, impliedKey: string | undefined): [string, string] {
  const equals = pair.indexOf('=')
  if (equals < 0 && impliedKey !== undefined && pair !== '') return [impliedKey, pair]
  const key = equals < 0 ? pair : pair.slice(0, equals)
  if (!key.split('.').every(isKeyFragment)) throw invalid(`Invalid parameter '${key}'`)
  if (equals < 0) throw invalid(`Expected '=' after parameter '${key}'`)
  return [key, pair.slice(equals + 1)]
}

/** A name as in QAPI, or the index of a list's element. */
function isKeyFragment(text: string): boolean {
  return /^(?:[A-Za-z][A-Za-z0-9_-]*|\d+)$/.test(text)
}

type Tree = Map<string, string | Tree>

function nest(flat: ReadonlyMap<string, string>): Tree {
  const root: Tree = new Map()
  for (const [key, value] of flat) {
    const path = key.split('.')
    const last = path.pop() as string
    let into = root
    for (const [depth, fragment] of path.entries()) {
      const inner = into.get(fragment) ?? new Map()
      if (typeof inner === 'string') throw inconsistent(path.slice(0, depth + 1))
      into.set(fragment, inner)
      into = inner
    }
    if (into.get(last) instanceof Map) throw inconsistent([...path, last])
    into.set(last, value)
  }
  return root
}

/** Objects whose keys are all numbers become lists. */
function listsIn(tree: Tree, prefix: string): KeyvalValue {
  const entries = [...tree].map(([key, value]): [string, KeyvalValue] => [
    key,
    typeof value === 'string' ? value : listsIn(value, `${prefix}${key}.`),
  ])
  const numbered = entries.filter(([key]) => /^\d+$/.test(key))
  if (numbered.length === 0) return Object.fromEntries(entries)
  if (numbered.length < entries.length || prefix === '') {
    throw invalid(`Parameters '${prefix}*' used inconsistently`)
  }
  const byIndex = new Map(numbered.map(([key, value]) => [Number(key), value]))
  return Array.from(numbered, (_, index) => {
    const value = byIndex.get(index)
    if (value === undefined) throw invalid(`Parameter '${prefix}${index}' missing`)
    return value
  })
}

export interface OptionString {
  readonly options: Readonly<Record<string, string>>
  /** Names given without a value, with the meaning they were taken to have. */
  readonly shortForms: readonly { readonly written: string; readonly meaning: string }[]
}

/** The last of several values of one name counts. Never fails. */
export function parseOptionString(text: string, impliedName?: string): OptionString {
  const options: Record<string, string> = Object.create(null)
  const shortForms: { written: string; meaning: string }[] = []
  for (const [index, pair] of splitPairs(text).entries()) {
    const equals = pair.indexOf('=')
    if (equals >= 0) {
      options[pair.slice(0, equals)] = pair.slice(equals + 1)
    } else if (index === 0 && impliedName !== undefined) {
      options[impliedName] = pair
    } else {
      const negated = pair.startsWith('no')
      const name = negated ? pair.slice(2) : pair
      options[name] = negated ? 'off' : 'on'
      shortForms.push({ written: pair, meaning: `${name}=${options[name]}` })
    }
  }
  return { options, shortForms }
}

/** At single commas; doubled ones become part of the text. A comma at the end is ignored. */
function splitPairs(text: string): string[] {
  const pairs: string[] = []
  let pair = ''
  for (let at = 0; at < text.length; at++) {
    if (text[at] !== ',') pair += text[at]
    else if (text[at + 1] === ',') pair += text[at++]
    else {
      pairs.push(pair)
      pair = ''
    }
  }
  if (pair !== '') pairs.push(pair)
  return pairs
}

/** A value as it has to be written to come back unchanged. */
export function escapeCommas(value: string): string {
  return value.replaceAll(',', ',,')
}

function inconsistent(path: readonly string[]): BlockError {
  return invalid(`Parameters '${path.join('.')}.*' used inconsistently`)
}
