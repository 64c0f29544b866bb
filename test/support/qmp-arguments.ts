/** Arguments that are wrong in one place each, for every command that two schemas describe. */

interface Entry {
  readonly name: string
  readonly 'meta-type': 'command' | 'event' | 'builtin' | 'enum' | 'array' | 'object' | 'alternate'
  readonly 'arg-type': string
  readonly 'element-type': string
  readonly values: readonly string[]
  readonly members: readonly {
    readonly name: string
    readonly type: string
    readonly default?: null
  }[]
  readonly tag?: string
  readonly variants: readonly { readonly case: string; readonly type: string }[]
}

type Value = unknown
type Members = Record<string, Value>
/** One schema beside another, by type: what only one of them has is left alone. */
type Beside = readonly [Entry, Entry]

/** How deep arguments within arguments are looked at. */
const maxDepth = 4

export class WrongArguments {
  readonly #theirs: ReadonlyMap<string, Entry>
  readonly #ours: ReadonlyMap<string, Entry>

  constructor(theirs: unknown, ours: unknown) {
    this.#theirs = byName(theirs)
    this.#ours = byName(ours)
  }

  /** Names of the commands that both have. */
  commands(): string[] {
    return [...this.#ours.values()]
      .filter(({ name, 'meta-type': kind }) => kind === 'command' && this.#theirs.has(name))
      .map(({ name }) => name)
  }

  /** All that is wrong in one place, and what is right as far as types go. */
  of(command: string): Members[] {
    const beside = this.#beside(command, command)
    const type = this.#beside(beside[0]['arg-type'], beside[1]['arg-type'])
    return this.#wrong(type, 0) as Members[]
  }

  #wrong(beside: Beside, depth: number): readonly Value[] {
    const [their, our] = beside
    if (depth > maxDepth || their['meta-type'] !== our['meta-type']) return []
    switch (our['meta-type']) {
      case 'builtin':
        return wrongBuiltins[our.name] ?? []
      case 'enum':
        return ['no-such', '', 1, null]
      case 'array': {
        const element = this.#beside(their['element-type'], our['element-type'])
        return [1, {}, 'x', ...this.#wrong(element, depth + 1).map((value) => [value])]
      }
      case 'alternate':
        return [1.5]
      case 'object':
        return [1, 'x', [], ...this.#wrongObjects(beside, depth)]
      default:
        return []
    }
  }

  #wrongObjects(beside: Beside, depth: number): Members[] {
    const { tag } = beside[1]
    if (tag === undefined) return this.#wrongMembers(this.#members(beside), {}, depth)
    const cases = beside[1].variants.flatMap((variant) => {
      const same = beside[0].variants.find((each) => each.case === variant.case)
      return same ? [[variant.case, this.#beside(same.type, variant.type)] as const] : []
    })
    const common = this.#members(beside).filter(({ name }) => name !== tag)
    const bare = beside[1].members.find(({ name }) => name === tag)
    const tagType = this.#beside(
      beside[0].members.find(({ name }) => name === tag)?.type as string,
      bare?.type as string,
    )
    const some = cases[0]?.[0] ?? tagType[1].values[0]
    return [
      {},
      ...this.#wrong(tagType, depth + 1).map((value) => ({ [tag]: value })),
      ...this.#wrongMembers(common, { [tag]: some }, depth),
      ...cases.flatMap(([name, type]) => {
        const own = this.#members(type)
        const base = { [tag]: name, ...this.#right(common, depth) }
        return this.#wrongMembers(own, base, depth)
      }),
    ]
  }

  #wrongMembers(members: readonly BesideMember[], base: Members, depth: number): Members[] {
    const right = { ...base, ...this.#right(members, depth) }
    const lacking = members
      .filter(({ required }) => required)
      .map(({ name }) => Object.fromEntries(Object.entries(right).filter(([key]) => key !== name)))
    const mistaken = members.flatMap(({ name, type }) =>
      this.#wrong(type, depth + 1).map((value) => ({ ...right, [name]: value })),
    )
    return [right, ...lacking, { ...right, 'no-such': 1 }, ...mistaken]
  }

  #right(members: readonly BesideMember[], depth: number): Members {
    const required = members.filter((each) => each.required)
    return Object.fromEntries(
      required.map(({ name, type }) => [name, this.#rightValue(type, depth)]),
    )
  }

  #rightValue(beside: Beside, depth: number): Value {
    const [their, our] = beside
    switch (our['meta-type']) {
      case 'builtin':
        return rightBuiltins[our.name]
      case 'enum':
        return our.values.find((value) => their.values.includes(value))
      case 'array':
        return []
      case 'object': {
        const members = this.#right(this.#members(beside), depth + 1)
        const { tag } = our
        if (tag === undefined) return members
        const variant = our.variants.find((each) => each.case === members[tag])
        const same = their.variants.find((each) => each.case === members[tag])
        if (!variant || !same) return members
        const own = this.#members(this.#beside(same.type, variant.type))
        return { ...members, ...this.#right(own, depth + 1) }
      }
      default:
        return 'no-such'
    }
  }

  #members([their, our]: Beside): BesideMember[] {
    return our.members.flatMap(({ name, type, ...rest }) => {
      const same = their.members.find((each) => each.name === name)
      if (!same) return []
      return [{ name, type: this.#beside(same.type, type), required: !('default' in rest) }]
    })
  }

  #beside(theirs: string, ours: string): Beside {
    return [this.#theirs.get(theirs) as Entry, this.#ours.get(ours) as Entry]
  }
}

interface BesideMember {
  readonly name: string
  readonly type: Beside
  readonly required: boolean
}

const rightBuiltins: Readonly<Record<string, Value>> = {
  str: 'no-such',
  int: 1,
  number: 1,
  bool: false,
  null: null,
  any: 1,
}

const wrongBuiltins: Readonly<Record<string, readonly Value[]>> = {
  str: [1, null, {}],
  int: ['1', 1.5, true, null, -1],
  number: ['1', null],
  bool: [1, 'on', null],
}

function byName(schema: unknown): ReadonlyMap<string, Entry> {
  return new Map((schema as Entry[]).map((entry) => [entry.name, entry]))
}
