/**
 * The reference manual, from the command table. `docs/qmp-reference.md` is its text; a test says
 * when that is stale, and `npm run docs:qmp` writes it anew.
 */
import type { Command, Topic } from '../command.ts'
import type { EventDefinition } from '../events.ts'
import type { Member, ObjectType, Type } from './types.ts'

const introduction = `# QMP reference

The commands and events of \`varve daemon\`. Generated from the command table by
\`npm run docs:qmp\`; do not edit. How to start the daemon, and how its monitors behave, is in
[daemon.md](daemon.md).

Members in *italics* are optional. A command marked "ours" is one that QEMU's storage daemon does
not have; the others take and give what QEMU 7.2 documents, except where a member says
otherwise. Errors have the class \`GenericError\` unless said otherwise.
`

export function manual(commands: readonly Command[], events: readonly EventDefinition[]): string {
  const writer = new ManualWriter()
  const topics = [...new Set(commands.map(({ topic }) => topic))]
  const chapters = topics.map((topic) => writer.chapter(topic, commands))
  const eventChapter = `## Events\n\n${events.map((event) => writer.event(event)).join('\n')}`
  return `${[introduction, ...chapters, eventChapter, writer.typeChapter()].join('\n').trimEnd()}\n`
}

class ManualWriter {
  /** Types that have a section of their own, in the order they were met. */
  readonly #types = new Map<string, Type & { readonly name: string }>()

  chapter(topic: Topic, commands: readonly Command[]): string {
    const own = commands.filter((each) => each.topic === topic)
    return `## ${topic}\n\n${own.map((each) => this.#command(each)).join('\n')}`
  }

  event({ name, doc, data }: EventDefinition): string {
    return `### ${name}\n\n${doc}\n\n${this.#members('Data', data)}`
  }

  /** Describing a type may bring in further ones, which the iteration then meets. */
  typeChapter(): string {
    let text = '## Types\n\n'
    for (const type of this.#types.values()) text += `### ${type.name}\n\n${this.#describe(type)}\n`
    return text
  }

  #command(command: Command): string {
    const { name, doc, args, returns, returnsDoc, features = [], addition } = command
    const marks = [...(addition ? ['ours'] : []), ...features]
    const title = marks.length > 0 ? `${name} (${marks.join(', ')})` : name
    const result = returnsDoc ?? (returns ? `${this.#nameOf(returns)}.` : undefined)
    const taken = this.#isEmpty(args) ? '' : `${this.#members('Arguments', args)}\n`
    const given = result ? `Returns: ${result}\n` : ''
    return `${`### ${title}\n\n${doc}\n\n${taken}${given}`.trimEnd()}\n`
  }

  #isEmpty({ members, variants }: ObjectType): boolean {
    return Object.keys(members).length === 0 && variants === undefined
  }

  #members(title: string, type: ObjectType): string {
    return `${title}:\n\n${this.#memberList(type.members)}${this.#variants(type)}`
  }

  #memberList(members: Readonly<Record<string, Member>>): string {
    return Object.entries(members)
      .map(([name, member]) => this.#member(name, member))
      .join('')
  }

  #member(name: string, { type, optional, doc, features = [] }: Member): string {
    const shown = optional ? `*\`${name}\`*` : `\`${name}\``
    const marks = features.length > 0 ? ` (${features.join(', ')})` : ''
    return `- ${shown}: ${this.#nameOf(type)}${marks}. ${doc}\n`
  }

  #variants({ tag, variants }: ObjectType): string {
    if (tag === undefined || variants === undefined) return ''
    return Object.entries(variants())
      .filter(([, { members }]) => Object.keys(members).length > 0)
      .map(([value, { members }]) => {
        const list = this.#memberList(members).replaceAll(/^(?=.)/gm, '  ')
        return `- with \`${tag}\` \`${value}\`:\n${list}`
      })
      .join('')
  }

  #nameOf(type: Type): string {
    switch (type.kind) {
      case 'builtin':
        return builtinNames[type.builtin]
      case 'array':
        return `list of ${this.#nameOf(type.of)}`
      case 'enum':
        if (type.values.length <= 6) return type.values.map((value) => `\`${value}\``).join(' | ')
    }
    this.#types.set(type.name, type)
    return `[${type.name}](#${type.name.toLowerCase()})`
  }

  #describe(type: Type): string {
    switch (type.kind) {
      case 'enum':
        return `One of ${type.values.map((value) => `\`${value}\``).join(', ')}.\n`
      case 'alternate': {
        const branches = type.branches().map((branch) => this.#nameOf(branch))
        return `Either ${branches.join(' or ')}.\n`
      }
      case 'object':
        return `${this.#memberList(type.members)}${this.#variants(type)}`
      default:
        return ''
    }
  }
}

const builtinNames = {
  str: 'string',
  int: 'integer',
  number: 'number',
  bool: 'boolean',
  null: 'null',
  any: 'any value',
} as const
