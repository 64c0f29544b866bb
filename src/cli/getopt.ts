/**
 * Command-line options as GNU getopt_long reads them, which all of QEMU's tools use: bundled short
 * options, `--name=value`, names cut short where that is unambiguous, options behind other
 * arguments (unless POSIXLY_CORRECT is set), and `--` that ends them. The texts of errors are
 * getopt's, without the name of the program.
 */

export interface LongOption {
  readonly name: string
  /** `none` unless given. */
  readonly argument?: OptionArgument
  /** The name it is reported under, usually its short form; its own unless given. */
  readonly as?: string
}

export type OptionArgument = 'none' | 'required' | 'optional'

export type ParsedOption =
  | { readonly kind: 'option'; readonly name: string; readonly argument?: string }
  | OptionError

export interface OptionError {
  readonly kind: 'error'
  readonly reason: 'unknown' | 'ambiguous' | 'missing-argument' | 'unexpected-argument'
  readonly message: string
}

/** The words in the order of getopt: those that are no options move behind those that are. */
export class OptionParser {
  readonly #words: string[]
  readonly #short: ReadonlyMap<string, OptionArgument>
  readonly #long: readonly LongOption[]
  readonly #permute: boolean
  #next = 0
  /** First word of the option that was read last. */
  #start = 0
  /** [`#skipped`, `#skippedEnd`) are no options, and lie in front of options already read. */
  #skipped = 0
  #skippedEnd = 0
  /** What is left of a bundle of short options. */
  #bundle = ''

  /** `short` is written as for getopt(3): `f:o:qv::`. */
  constructor(words: readonly string[], short: string, long: readonly LongOption[] = []) {
    this.#words = [...words]
    this.#short = shortOptions(short)
    this.#long = long
    this.#permute = process.env.POSIXLY_CORRECT === undefined
  }

  /** The word before the next one, as `argv[optind - 1]` is; undefined: the command's name. */
  get current(): string | undefined {
    return this.#words[this.#next - 1]
  }

  /** The words of the option that was read last, as they were given; of a bundle, all of it. */
  get spelled(): string {
    return this.#words.slice(this.#start, this.#next).join(' ')
  }

  /** The arguments that are no options; complete once `next` has returned undefined. */
  get rest(): readonly string[] {
    return this.#words.slice(this.#next)
  }

  /** The next option, or undefined after the last. */
  next(): ParsedOption | undefined {
    if (this.#bundle === '') {
      if (!this.#findOption()) return undefined
      this.#start = this.#next
      const word = this.#words[this.#next]
      if (word.startsWith('--') && this.#long.length > 0) return this.#longOption(word)
      this.#bundle = word.slice(1)
    }
    return this.#shortOption()
  }

  #findOption(): boolean {
    const words = this.#words
    if (this.#permute) {
      this.#moveSkipped()
      while (this.#next < words.length && !isOption(words[this.#next])) this.#next++
      this.#skippedEnd = this.#next
    }
    if (words[this.#next] === '--') {
      this.#next++
      this.#moveSkipped()
      this.#skippedEnd = this.#next = words.length
    }
    if (this.#next < words.length) return isOption(words[this.#next])
    if (this.#skipped !== this.#skippedEnd) this.#next = this.#skipped
    return false
  }

  /** Options read since words were skipped change places with those words. */
  #moveSkipped(): void {
    const options = this.#next - this.#skippedEnd
    const skipped = this.#words.splice(this.#skipped, this.#skippedEnd - this.#skipped)
    this.#words.splice(this.#skipped + options, 0, ...skipped)
    this.#skipped += options
    this.#skippedEnd = this.#next
  }

  #shortOption(): ParsedOption {
    const name = this.#bundle[0]
    const wants = this.#short.get(name)
    this.#bundle = this.#bundle.slice(1)
    if (wants === undefined || wants === 'none') {
      if (this.#bundle === '') this.#next++
      if (wants) return { kind: 'option', name }
      return failure('unknown', `invalid option -- '${name}'`)
    }
    this.#next++
    const attached = this.#bundle
    this.#bundle = ''
    if (attached !== '') return { kind: 'option', name, argument: attached }
    if (wants === 'optional') return { kind: 'option', name }
    if (this.#next === this.#words.length) {
      return failure('missing-argument', `option requires an argument -- '${name}'`)
    }
    return { kind: 'option', name, argument: this.#words[this.#next++] }
  }

  #longOption(word: string): ParsedOption {
    this.#next++
    const equals = word.indexOf('=')
    const given = equals < 0 ? word.slice(2) : word.slice(2, equals)
    const value = equals < 0 ? undefined : word.slice(equals + 1)
    const found = this.#lookUp(given, word)
    if ('kind' in found) return found
    const wants = found.argument ?? 'none'
    const name = found.as ?? found.name
    if (value !== undefined) {
      return wants === 'none'
        ? failure('unexpected-argument', `option '--${found.name}' doesn't allow an argument`)
        : { kind: 'option', name, argument: value }
    }
    if (wants !== 'required') return { kind: 'option', name }
    if (this.#next === this.#words.length) {
      return failure('missing-argument', `option '--${found.name}' requires an argument`)
    }
    return { kind: 'option', name, argument: this.#words[this.#next++] }
  }

  #lookUp(given: string, word: string): LongOption | OptionError {
    const exact = this.#long.find(({ name }) => name === given)
    if (exact) return exact
    const candidates = this.#long.filter(({ name }) => name.startsWith(given))
    if (candidates.length === 0) return failure('unknown', `unrecognized option '${word}'`)
    const [first, ...others] = candidates
    if (others.every((other) => sameMeaning(first, other))) return first
    const names = candidates.map(({ name }) => `'--${name}'`).join(' ')
    return failure('ambiguous', `option '${word}' is ambiguous; possibilities: ${names}`)
  }
}

/** Whether a word can be an option; a lone `-` is an argument. */
function isOption(word: string): boolean {
  return word.length > 1 && word.startsWith('-')
}

function sameMeaning(one: LongOption, other: LongOption): boolean {
  return (one.as ?? one.name) === (other.as ?? other.name) && one.argument === other.argument
}

function failure(reason: OptionError['reason'], message: string): OptionError {
  return { kind: 'error', reason, message }
}

function shortOptions(text: string): ReadonlyMap<string, OptionArgument> {
  const found = new Map<string, OptionArgument>()
  for (const [, name, colons] of text.matchAll(/([^:])(:{0,2})/g)) {
    found.set(name, colons === '' ? 'none' : colons === ':' ? 'required' : 'optional')
  }
  return found
}
