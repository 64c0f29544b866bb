/** Reading DER (X.690), as far as certificates and lists of revoked ones need it. */
import { type BlockError, invalid } from '../errors.ts'

export interface DerElement {
  /** The identifier octet: class, whether it is made of parts, and number. */
  readonly tag: number
  readonly content: Uint8Array
  /** With tag and length. */
  readonly whole: Uint8Array
}

export const DER_BOOLEAN = 0x01
export const DER_INTEGER = 0x02
export const DER_UTC_TIME = 0x17
export const DER_GENERALIZED_TIME = 0x18
export const DER_SEQUENCE = 0x30

/** `[number]`, made of parts. */
export function derContext(number: number): number {
  return 0xa0 + number
}

/** The element that `bytes` begin with. Throws `INVALID_ARGUMENT`. */
export function readDer(bytes: Uint8Array): DerElement {
  const [tag, first] = bytes
  // No certificate has tags of several octets, and DER has no lengths without an end.
  if (first === undefined || tag % 32 === 31 || first === 0x80) throw malformed()
  const lengthOctets = first < 0x80 ? 0 : first - 0x80
  if (lengthOctets > 4) throw malformed()
  let length = first < 0x80 ? first : 0
  for (let index = 0; index < lengthOctets; index++) {
    length = length * 256 + (bytes[2 + index] ?? Number.NaN)
  }
  const start = 2 + lengthOctets
  if (!(start + length <= bytes.length)) throw malformed()
  return {
    tag,
    content: bytes.subarray(start, start + length),
    whole: bytes.subarray(0, start + length),
  }
}

/** The parts of an element, in their order. */
export function partsOf({ content }: DerElement): DerElement[] {
  const parts: DerElement[] = []
  for (let at = 0; at < content.length; ) {
    const part = readDer(content.subarray(at))
    parts.push(part)
    at += part.whole.length
  }
  return parts
}

/** `2.5.4.3` */
export function objectIdentifier(content: Uint8Array): string {
  const numbers: bigint[] = []
  let value = 0n
  for (const octet of content) {
    value = value * 128n + BigInt(octet % 128)
    if (octet >= 128) continue
    numbers.push(value)
    value = 0n
  }
  const [head = 0n, ...rest] = numbers
  const first = head < 80n ? head / 40n : 2n
  return [first, head - first * 40n, ...rest].join('.')
}

/** Milliseconds since 1970 of a UTCTime or GeneralizedTime (RFC 5280, section 4.1.2.5). */
export function timeOf({ tag, content }: DerElement): number {
  const text = Buffer.from(content).toString('latin1')
  const match =
    tag === DER_UTC_TIME
      ? /^(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/.exec(text)
      : /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/.exec(text)
  if (!match) throw malformed()
  const [year, month, day, hour, minute, second] = match.slice(1).map(Number)
  const full = tag === DER_UTC_TIME ? year + (year < 50 ? 2000 : 1900) : year
  return Date.UTC(full, month - 1, day, hour, minute, second)
}

function malformed(): BlockError {
  return invalid('ASN1 parser: Error in DER parsing.')
}
