/** A distinguished name as text (RFC 4514), in the order of its parts, as GnuTLS writes it. */
import { type DerElement, objectIdentifier, partsOf } from './der.ts'

const shortNames: Readonly<Record<string, string>> = {
  '2.5.4.3': 'CN',
  '2.5.4.4': 'surName',
  '2.5.4.5': 'serialNumber',
  '2.5.4.6': 'C',
  '2.5.4.7': 'L',
  '2.5.4.8': 'ST',
  '2.5.4.9': 'street',
  '2.5.4.10': 'O',
  '2.5.4.11': 'OU',
  '2.5.4.12': 'title',
  '2.5.4.13': 'description',
  '2.5.4.17': 'postalCode',
  '2.5.4.20': 'telephoneNumber',
  '2.5.4.41': 'name',
  '2.5.4.42': 'givenName',
  '2.5.4.43': 'initials',
  '2.5.4.44': 'generationQualifier',
  '2.5.4.46': 'dnQualifier',
  '2.5.4.65': 'pseudonym',
  '0.9.2342.19200300.100.1.1': 'UID',
  '0.9.2342.19200300.100.1.25': 'DC',
  '1.2.840.113549.1.9.1': 'EMAIL',
}

/** Undefined when the name has no parts. */
export function distinguishedName(name: DerElement): string | undefined {
  const parts = partsOf(name).map((set) => partsOf(set).map(attribute).join('+'))
  return parts.length === 0 ? undefined : parts.join(',')
}

function attribute(pair: DerElement): string {
  const [type, value] = partsOf(pair)
  const id = objectIdentifier(type.content)
  const text = textOf(value)
  // An attribute that nobody knows is shown as it is encoded.
  if (!Object.hasOwn(shortNames, id) || text === undefined) {
    return `${id}=#${Buffer.from(value.whole).toString('hex')}`
  }
  return `${shortNames[id]}=${escaped(text)}`
}

const stringEncodings: Readonly<Record<number, (content: Buffer) => string>> = {
  12: (content) => content.toString('utf8'),
  19: (content) => content.toString('latin1'),
  20: (content) => content.toString('latin1'),
  22: (content) => content.toString('latin1'),
  30: (content) => Buffer.from(content).swap16().toString('utf16le'),
}

function textOf({ tag, content }: DerElement): string | undefined {
  return stringEncodings[tag]?.(Buffer.from(content))
}

function escaped(text: string): string {
  return text
    .replaceAll(/[,+"\\<>;]/g, '\\$&')
    .replace(/^[# ]/, '\\$&')
    .replace(/(?<!^\\) $/, '\\ ')
}
