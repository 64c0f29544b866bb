/** The command line of one subcommand, with the errors as qemu-img words them. */
import { type LongOption, OptionParser } from '../getopt.ts'
import { CommandFailure, HelpRequest, usageFailure } from './failure.ts'

/** What is done with an option as soon as it is read: what is wrong with it is said before anything else. */
export type OptionChecks = Readonly<Record<string, (argument: string) => void>>

/** What the options of one subcommand came to. */
export class Arguments {
  /** Arguments that are no options. */
  readonly rest: readonly string[]
  /** The options as they came. */
  readonly order: readonly { readonly name: string; readonly argument?: string }[]
  readonly #values: ReadonlyMap<string, readonly string[]>

  /** Throws `CommandFailure`; the exit status is 1 in every subcommand. */
  constructor(
    command: string,
    words: readonly string[],
    short: string,
    long: LongOption[],
    checks: OptionChecks = {},
  ) {
    const parser = new OptionParser(words, `h${short}`, [...standard, ...long])
    const values = new Map<string, string[]>()
    const order: { name: string; argument?: string }[] = []
    for (let option = parser.next(); option; option = parser.next()) {
      const word = parser.current ?? command
      if (option.kind === 'error') {
        // Unlike all others it leaves that to getopt.
        if (command === 'measure') throw new HelpRequest(`${command}: ${option.message}\n`)
        const missing = option.reason === 'missing-argument'
        throw usageFailure(
          missing ? `missing argument for option '${word}'` : `unrecognized option '${word}'`,
        )
      }
      if (option.name === 'h') throw new HelpRequest()
      if (Object.hasOwn(checks, option.name)) checks[option.name](option.argument ?? '')
      order.push({ name: option.name, argument: option.argument })
      const former = values.get(option.name) ?? []
      values.set(option.name, [...former, option.argument ?? ''])
    }
    this.#values = values
    this.order = order
    this.rest = parser.rest
  }

  has(name: string): boolean {
    return this.#values.has(name)
  }

  /** The argument of an option; of the last, if it was given several times. */
  value(name: string): string | undefined {
    return this.#values.get(name)?.at(-1)
  }

  all(name: string): readonly string[] {
    return this.#values.get(name) ?? []
  }

  /** `--output`: throws when it is neither. */
  get json(): boolean {
    const output = this.value('output') ?? 'human'
    if (output === 'human' || output === 'json') return output === 'json'
    throw new CommandFailure('--output must be used with human or json as argument.')
  }
}

/** Options that every subcommand has. */
const standard: readonly LongOption[] = [{ name: 'help', as: 'h' }]

/** Options that several subcommands share. */
export const imageOpts: LongOption = { name: 'image-opts' }
export const output: LongOption = { name: 'output', argument: 'required' }
export const forceShare: LongOption = { name: 'force-share', as: 'U' }
export const object: LongOption = { name: 'object', argument: 'required' }
