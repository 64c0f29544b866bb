/** How far two answers of `query-qmp-schema` describe the same commands. */

interface Entry {
  readonly name: string
  readonly 'meta-type': string
  readonly 'arg-type'?: string
  readonly 'ret-type'?: string
  readonly 'element-type'?: string
  readonly values?: readonly string[]
  readonly members?: readonly Member[]
  readonly tag?: string
  readonly variants?: readonly { readonly case: string; readonly type: string }[]
}

interface Member {
  readonly name: string
  readonly type: string
  readonly default?: null
  readonly features?: readonly string[]
}

/**
 * What `ours` has that `theirs` has not, and what it lacks of the commands that it has, one line
 * each. Values and variants that only `theirs` has are no difference: those are less to offer,
 * not something else.
 */
export function schemaDifferences(theirs: unknown, ours: unknown): string[] {
  return new Comparison(byName(theirs), byName(ours)).all()
}

class Comparison {
  readonly #theirs: ReadonlyMap<string, Entry>
  readonly #ours: ReadonlyMap<string, Entry>
  readonly #compared = new Set<string>()
  readonly #found: string[] = []

  constructor(theirs: ReadonlyMap<string, Entry>, ours: ReadonlyMap<string, Entry>) {
    this.#theirs = theirs
    this.#ours = ours
  }

  all(): string[] {
    for (const [name, our] of this.#ours) {
      if (our['meta-type'] !== 'command' && our['meta-type'] !== 'event') continue
      const their = this.#theirs.get(name)
      if (!their) this.#found.push(`${name}: ours`)
      else this.#type(their['arg-type'] as string, our['arg-type'] as string, name)
    }
    return this.#found
  }

  #type(theirName: string, ourName: string, path: string): void {
    const pair = `${theirName} ${ourName}`
    if (this.#compared.has(pair)) return
    this.#compared.add(pair)
    const their = this.#theirs.get(theirName) as Entry
    const our = this.#ours.get(ourName) as Entry
    const kind = our['meta-type']
    if (their['meta-type'] !== kind || (kind === 'builtin' && theirName !== ourName)) {
      this.#found.push(`${path}: another type`)
    } else if (kind === 'array') {
      this.#type(their['element-type'] as string, our['element-type'] as string, `${path}[]`)
    } else if (kind === 'enum') {
      const extra = our.values?.filter((value) => !their.values?.includes(value)) ?? []
      for (const value of extra) this.#found.push(`${path}: value ${value} is ours`)
    } else if (kind === 'object') {
      this.#object(their, our, path)
    }
  }

  #object(their: Entry, our: Entry, path: string): void {
    const known = new Map(our.members?.map((member) => [member.name, member]))
    for (const member of their.members ?? []) {
      const own = known.get(member.name)
      known.delete(member.name)
      if (own) this.#member(member, own, `${path}.${member.name}`)
      else this.#found.push(`${path}.${member.name}: lacking`)
    }
    for (const name of known.keys()) this.#found.push(`${path}.${name}: ours`)
    if (their.tag !== our.tag) this.#found.push(`${path}: another tag`)
    for (const variant of our.variants ?? []) {
      const same = their.variants?.find((each) => each.case === variant.case)
      if (same) this.#type(same.type, variant.type, `${path}<${variant.case}>`)
      else this.#found.push(`${path}: variant ${variant.case} is ours`)
    }
  }

  #member(their: Member, our: Member, path: string): void {
    if ('default' in their !== 'default' in our) this.#found.push(`${path}: required or not`)
    if (String(their.features) !== String(our.features)) this.#found.push(`${path}: other features`)
    this.#type(their.type, our.type, path)
  }
}

function byName(schema: unknown): ReadonlyMap<string, Entry> {
  return new Map((schema as Entry[]).map((entry) => [entry.name, entry]))
}
