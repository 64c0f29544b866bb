/** The words of one command: its options, and the numbers among its arguments. */
import { OptionParser } from '../getopt.ts'
import { parseSizeText, warnOfHex } from '../img/size-text.ts'
import { CommandError, SynopsisRequest } from './outcome.ts'
import type { Session } from './session.ts'

export interface ParsedWords {
  /** Given options, `''` for those without an argument. */
  readonly options: ReadonlyMap<string, string>
  readonly rest: readonly string[]
}

/** `accepted` is written as for getopt(3). */
export function parseWords(
  words: readonly string[],
  accepted: string,
  session: Session,
): ParsedWords {
  const [name, ...others] = words
  const parser = new OptionParser(others, accepted)
  const options = new Map<string, string>()
  for (let option = parser.next(); option; option = parser.next()) {
    if (option.kind === 'error') {
      session.complain(`${name}: ${option.message}`)
      throw new SynopsisRequest()
    }
    options.set(option.name, option.argument ?? '')
  }
  return { options, rest: parser.rest }
}

/** Largest length of one request that is not zeroes without a buffer. */
export const maxRequest = 2147483136

/** Bytes of `512`, `64k`, `0x1000`, `1.5G`. What is wrong is said of `named`. */
export function size(text: string, session: Session, named = text): number {
  const parsed = parseSizeText(text)
  if (parsed.kind === 'size') {
    if (parsed.deprecatedHex) warnOfHex(text, session.io)
    return parsed.bytes
  }
  const problem =
    parsed.kind === 'range'
      ? 'argument too large'
      : 'non-numeric argument, or extraneous/unrecognized suffix'
  throw new CommandError(`Parsing error: ${problem} -- ${named}`)
}

/** The lengths of a vector, added up: a request is one piece of memory here. */
export function totalLength(texts: readonly string[], session: Session): number {
  let total = 0
  for (const text of texts) {
    const length = size(text, session)
    if (length > maxRequest) {
      throw new CommandError(`Argument '${text}' exceeds maximum size ${maxRequest}`)
    }
    if (total + length > maxRequest) {
      throw new CommandError(`The total number of bytes exceed the maximum size ${maxRequest}`)
    }
    total += length
  }
  return total
}

/** A byte in decimal, octal or hexadecimal, as C reads them. */
export function patternByte(text: string): number {
  const value = integer(text)
  if (value === undefined || value < 0 || value > 255) {
    throw new CommandError(`${text} is not a valid pattern byte`)
  }
  return value
}

/** `65`, `0101`, `0x41`; undefined when it is none of them. */
export function integer(text: string): number | undefined {
  const match = /^\s*([+-]?)(0x[0-9a-f]+|\d+)$/i.exec(text)
  if (!match) return undefined
  const [, sign, digits] = match
  const octal = /^0[0-7]+$/.test(digits)
  if (!octal && /^0\d/.test(digits)) return undefined
  const value = Number(octal ? `0o${digits}` : digits)
  return sign === '-' ? -value : value
}
