/** What is printed where an option's argument asks for help. */
import { creatableTypes } from '../../daemon/commands/objects.ts'
import { propertiesOf, qomTypes } from '../../daemon/qom/types.ts'

/** An argument asks for help: print the text and end with the status. */
export class HelpAsked extends Error {
  readonly text: string
  readonly status: number

  constructor(text: string, status = 0) {
    super('help was asked for')
    this.text = text
    this.status = status
  }
}

/** The properties of a type, or the types where there is no such. */
export function objectHelp(type: string | undefined): HelpAsked {
  const known = creatableTypes.filter((name) => qomTypes.has(name)).sort()
  if (type === undefined || !known.includes(type)) {
    return new HelpAsked(`List of user creatable objects:\n${indented(known)}`)
  }
  const settable = [...propertiesOf(type)].filter(([name]) => !['type', 'loaded'].includes(name))
  const lines = settable.map(([name, kind]) => `${name}=<${kind}>`).sort()
  return new HelpAsked(`${type} options:\n${indented(lines)}`)
}

/** The kinds of devices; or the options, which QEMU takes for a failure. */
export function chardevHelp(
  backend: string | undefined,
  backends: readonly string[],
  options: Readonly<Record<string, string>>,
): HelpAsked {
  if (backend === 'help' || backend === '?') {
    return new HelpAsked(`Available chardev backend types: \n${indented(backends)}`)
  }
  const lines = Object.entries(options).map(([name, type]) => `${name}=<${type}>`)
  return new HelpAsked(`chardev options:\n${indented(lines.sort())}`, 1)
}

function indented(lines: readonly string[]): string {
  return lines.map((line) => `  ${line}\n`).join('')
}
