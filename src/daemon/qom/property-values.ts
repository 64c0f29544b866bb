/** What the properties of an object are. */
import { type BlockError, invalid } from '../../errors.ts'
import { check } from '../schema/check.ts'
import { type Member, object } from '../schema/types.ts'

export interface PropertyValues {
  get(name: string): unknown
  /** Throws `INVALID_ARGUMENT` when the property cannot be written, or not so. */
  set(name: string, value: unknown): void
}

/** What properties are when nothing was said; for the others, it depends on the type. */
const defaults: Readonly<Record<string, unknown>> = {
  endpoint: 'client',
  format: 'raw',
  'node-affinity': [],
  policy: 'deny',
  refresh: true,
  rules: [],
  'sanity-check': true,
  'verify-peer': true,
}

/**
 * Values that were given with the object and are only remembered. Writing one is allowed, as in
 * QEMU, and has no effect on what was made of them.
 */
export class StoredValues implements PropertyValues {
  readonly #type: string
  readonly #members: Readonly<Record<string, Member>>
  readonly #given: Map<string, unknown>

  /** `members` declares those that may be given. */
  constructor(
    type: string,
    members: Readonly<Record<string, Member>>,
    given: Readonly<Record<string, unknown>>,
  ) {
    this.#type = type
    this.#members = members
    this.#given = new Map(Object.entries(given))
  }

  get(name: string): unknown {
    if (name === 'loaded') return true
    return this.#given.get(name) ?? defaults[name] ?? ''
  }

  set(name: string, value: unknown): void {
    const member = this.#members[name]
    if (!member || name === 'loaded') throw notWritable(this.#type, name)
    const { [name]: checked } = check(object('', { [name]: member }), { [name]: value })
    this.#given.set(name, checked)
  }
}

export function notWritable(type: string, property: string): BlockError {
  return invalid(`Property '${type}.${property}' is not writable`)
}
