/**
 * Introspection: the declared types and commands as `query-qmp-schema` lists them. As in QEMU,
 * names of types have no meaning (they are numbers here), arrays are called `[element]`, and all
 * integers are `int`, so that clients look at the structure.
 */
import type { Builtin, Member, ObjectType, Type } from './types.ts'
import { empty } from './types.ts'

/** What introspection needs to know of a command. */
export interface CommandTypes {
  readonly name: string
  readonly args: ObjectType
  readonly returns?: Type
  readonly features?: readonly string[]
}

export interface EventTypes {
  readonly name: string
  readonly data: ObjectType
}

export type SchemaEntry = Readonly<Record<string, unknown>>

const jsonTypes: Readonly<Record<Builtin, string>> = {
  str: 'string',
  int: 'int',
  number: 'number',
  bool: 'boolean',
  null: 'null',
  any: 'value',
}

/** Commands first, then events, then the types that they use. */
export function introspect(
  commands: readonly CommandTypes[],
  events: readonly EventTypes[],
): readonly SchemaEntry[] {
  const names = new TypeNames()
  const entries: SchemaEntry[] = []
  for (const { name, args, returns, features } of commands) {
    entries.push({
      name,
      ...(features ? { features } : {}),
      'ret-type': names.of(returns ?? empty),
      'meta-type': 'command',
      'arg-type': names.of(args),
    })
  }
  for (const { name, data } of events) {
    entries.push({ name, 'meta-type': 'event', 'arg-type': names.of(data) })
  }
  return [...entries, ...names.describeAll()]
}

class TypeNames {
  /** By what makes two declarations one type: its name, or the object itself. */
  readonly #names = new Map<unknown, string>()
  readonly #known = new Map<string, Type>()

  of(type: Type): string {
    const identity = identityOf(type)
    const known = this.#names.get(identity)
    if (known !== undefined) return known
    const name = this.#newName(type)
    this.#names.set(identity, name)
    this.#known.set(name, type)
    return name
  }

  #newName(type: Type): string {
    if (type.kind === 'builtin') return type.builtin
    if (type.kind === 'array') return `[${this.of(type.of)}]`
    return String(this.#names.size)
  }

  /** Describing a type may bring in further ones, which the map's iteration then meets. */
  *describeAll(): Generator<SchemaEntry> {
    for (const [name, type] of this.#known) yield { name, ...this.#describe(type) }
  }

  #describe(type: Type): SchemaEntry {
    switch (type.kind) {
      case 'builtin':
        return { 'meta-type': 'builtin', 'json-type': jsonTypes[type.builtin] }
      case 'enum':
        return {
          'meta-type': 'enum',
          members: type.values.map((name) => ({ name })),
          values: type.values,
        }
      case 'array':
        return { 'meta-type': 'array', 'element-type': this.of(type.of) }
      case 'alternate':
        return {
          'meta-type': 'alternate',
          members: type.branches().map((branch) => ({ type: this.of(branch) })),
        }
      case 'object':
        return this.#describeObject(type)
    }
  }

  #describeObject({ members, tag, variants }: ObjectType): SchemaEntry {
    const cases = Object.entries(variants?.() ?? {})
    return {
      'meta-type': 'object',
      members: Object.entries(members).map(([name, member]) => this.#describeMember(name, member)),
      ...(tag === undefined
        ? {}
        : { tag, variants: cases.map(([name, type]) => ({ case: name, type: this.of(type) })) }),
    }
  }

  #describeMember(name: string, { type, optional, features }: Member): SchemaEntry {
    return {
      name,
      ...(optional ? { default: null } : {}),
      ...(features ? { features } : {}),
      type: this.of(type),
    }
  }
}

function identityOf(type: Type): unknown {
  if (type.kind === 'builtin') return `builtin ${type.builtin}`
  return type.kind === 'array' ? `[${String(identityOf(type.of))}]` : `${type.kind} ${type.name}`
}
