/** Lists of whom to let in as people write them: options, or a file of JSON. */
import { readFileSync, statSync } from 'node:fs'
import { BlockError, errnoOf, invalid, strerror } from '../errors.ts'
import {
  type Authorization,
  type AuthorizationList,
  type AuthorizationRule,
  listAuthorization,
} from '../tls/authorization.ts'
import { missing, OptionReader } from './options.ts'

/** How the options were written, and so how messages name their parts. */
export type Notation = 'json' | 'keyval'

/** The members of an `authz-list`, as options or a file have them. */
export function parseAuthorizationList(
  reader: OptionReader,
  notation: Notation = 'json',
): AuthorizationList {
  const policy = reader.oneOf('policy', policies)
  const rules = reader.take('rules')
  if (rules === undefined) return { policy }
  if (!Array.isArray(rules)) throw mistyped('rules', 'array')
  const nameOf = (index: number) => (notation === 'json' ? `rules[${index}]` : `rules.${index}`)
  return { policy, rules: rules.map((rule, index) => parseRule(rule, nameOf(index))) }
}

const policies = ['deny', 'allow'] as const

function parseRule(value: unknown, name: string): AuthorizationRule {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw mistyped(name, 'object')
  }
  const reader = new OptionReader(value as Readonly<Record<string, unknown>>)
  const match = reader.take('match')
  if (match === undefined) throw missing(`${name}.match`)
  if (typeof match !== 'string') throw mistyped(`${name}.match`, 'string')
  const policy = reader.oneOf('policy', policies)
  if (policy === undefined) throw missing(`${name}.policy`)
  const format = reader.oneOf('format', ['exact', 'glob'])
  for (const left of reader.left()) throw invalid(`Parameter '${name}.${left}' is unexpected`)
  return { match, policy, format }
}

function mistyped(name: string, expected: string): BlockError {
  return invalid(`Invalid parameter type for '${name}', expected: ${expected}`)
}

/** A list in a file, in JSON. */
export class FileAuthorization implements Authorization {
  readonly #file: string
  readonly #refresh: boolean
  #list: Authorization
  #version: string

  /** With `refresh` a changed file is read anew when somebody comes. */
  constructor(file: string, refresh: boolean) {
    this.#file = file
    this.#refresh = refresh
    this.#version = versionOf(file)
    this.#list = readList(file)
  }

  /** Throws when the file has changed and makes no sense any more: then nobody is let in. */
  allows(identity: string): boolean {
    if (this.#refresh) this.#readAnew()
    return this.#list.allows(identity)
  }

  #readAnew(): void {
    const version = versionOf(this.#file)
    if (version === this.#version) return
    this.#list = readList(this.#file)
    this.#version = version
  }
}

/** Differs after a change: the file was written, or another one is in its place. */
function versionOf(file: string): string {
  try {
    const { ino, size, mtimeNs, ctimeNs } = statSync(file, { bigint: true })
    return [ino, size, mtimeNs, ctimeNs].join(' ')
  } catch (error) {
    throw unreadable(file, strerror(errnoOf(error) ?? 'EIO'))
  }
}

/** Bytes of a file of rules. */
const maxFileLength = 4 * 1024 * 1024

function readList(file: string): Authorization {
  let text: Buffer
  try {
    text = readFileSync(file)
  } catch (error) {
    throw unreadable(file, strerror(errnoOf(error) ?? 'EIO'))
  }
  if (text.length > maxFileLength) throw unreadable(file, `more than ${maxFileLength} bytes`)
  const reader = new OptionReader(parseObject(text.toString('utf8'), file))
  const list = parseAuthorizationList(reader)
  reader.finish()
  return listAuthorization(list)
}

function parseObject(text: string, file: string): Readonly<Record<string, unknown>> {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw new BlockError('INVALID_ARGUMENT', `${file}: JSON parse error`, { cause })
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    return value as Readonly<Record<string, unknown>>
  }
  throw invalid(`File '${file}' must contain a JSON object`)
}

function unreadable(file: string, reason: string): BlockError {
  return invalid(`Unable to read '${file}': Failed to open file “${file}”: ${reason}`)
}
