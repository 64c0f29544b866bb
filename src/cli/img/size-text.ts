/** Sizes as people write and read them, by qemu-img's rules. */
import type { NamedIo } from '../command.ts'
import { threeDigits } from '../three-digits.ts'
import { CommandFailure } from './failure.ts'

/** Largest 64-bit signed number; sizes beyond 2^53 are approximate, and refused further down. */
const maxSigned = 2 ** 63
const maxSignedText = '9223372036854775807'

export type ParsedSize =
  | { readonly kind: 'size'; readonly bytes: number; readonly deprecatedHex: boolean }
  /** From 2^63 bytes on. */
  | { readonly kind: 'range'; readonly bytes: number }
  | { readonly kind: 'syntax' }

const suffixes = 'bkmgtpe'

/**
 * Bytes of `512`, `64k`, `1.5G`, `0x1000`: a fraction needs a unit, `b` counts as none. Hexadecimal
 * numbers have neither, though an old meaning of a unit behind them is still accepted.
 */
export function parseSizeText(text: string): ParsedSize {
  const hex = /^\s*\+?(0x[0-9a-f]+)([kmgtp]?)$/i.exec(text)
  const decimal = /^\s*\+?(\d+)(\.\d*)?([bkmgtpe]?)$/i.exec(text)
  const [number, suffix] = hex ? [Number(hex[1]), hex[2]] : decimalParts(decimal)
  if (number === undefined) return { kind: 'syntax' }
  const bytes = Math.round(number * 1024 ** Math.max(0, suffixes.indexOf(suffix.toLowerCase())))
  if (bytes >= maxSigned) return { kind: 'range', bytes }
  return { kind: 'size', bytes, deprecatedHex: hex !== null && suffix !== '' }
}

function decimalParts(match: RegExpExecArray | null): [number | undefined, string] {
  if (!match) return [undefined, '']
  const [, whole, fraction, suffix] = match
  const bytesOnly = suffix === '' || suffix.toLowerCase() === 'b'
  if (fraction !== undefined && bytesOnly && Number(`0${fraction}`) !== 0) return [undefined, '']
  return [Number(whole + (fraction ?? '')), suffix]
}

/** A number as strtol(3) reads it: decimal, `0x…`, or octal behind a zero; NaN where it is none. */
export function wholeNumber(text: string): number {
  const [, sign, digits] = /^\s*([+-]?)(0x[0-9a-f]+|0[0-7]*|[1-9]\d*)$/i.exec(text) ?? []
  if (digits === undefined) return Number.NaN
  const value = /^0\d/.test(digits) ? Number.parseInt(digits, 8) : Number(digits)
  return sign === '-' ? -value : value
}

/** What is wrong with a size that is an option's value, or may carry a sign, in the words for those. */
export function sizeFault(name: string, text: string): string {
  if (parseSizeText(text).kind === 'range') {
    return `Value '${text}' is out of range for parameter '${name}'`
  }
  return (
    `Parameter '${name}' expects a non-negative number below 2^64\n` +
    'Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n' +
    'and exabytes, respectively.'
  )
}

/** Parses the argument called `name` (`start offset`) or fails as qemu-img does. */
export function sizeArgument(name: string, text: string, io: NamedIo): number {
  const parsed = parseSizeText(text)
  if (parsed.kind === 'size') {
    if (parsed.deprecatedHex) warnOfHex(text, io)
    return parsed.bytes
  }
  if (parsed.kind === 'range') {
    throw new CommandFailure(`Invalid ${name} specified. Must be between 0 and ${maxSignedText}.`)
  }
  throw new CommandFailure(
    `Invalid ${name} specified. You may use k, M, G, T, P or E suffixes for\n` +
      `${io.program}: kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.`,
  )
}

export function warnOfHex(text: string, io: NamedIo): void {
  io.stderr.write(
    `${io.program}: warning: Using a multiplier suffix on hex numbers is deprecated: ${text}\n`,
  )
}

const unitNames = ['', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei']

/** Three digits and a unit: `1.5 MiB`. From 1000 of a unit on, the next one is used. */
export function sizeText(bytes: number): string {
  let unit = 0
  while (bytes / 1024 ** unit >= 1000) unit++
  return `${threeDigits(bytes / 1024 ** unit)} ${unitNames[unit]}B`
}
