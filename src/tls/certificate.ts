/**
 * What a certificate says of itself (RFC 5280), beyond what `node:crypto` tells: which uses it is
 * for, and how critical that is. Trust is not decided here.
 */
import {
  DER_BOOLEAN,
  DER_INTEGER,
  type DerElement,
  derContext,
  objectIdentifier,
  partsOf,
  readDer,
  timeOf,
} from './der.ts'

export interface CertificateFacts {
  /** Hexadecimal. */
  readonly serial: string
  readonly issuer: DerElement
  readonly subject: DerElement
  /** Milliseconds since 1970. */
  readonly notBefore: number
  readonly notAfter: number
  /** Whether it is an authority's; undefined where it has no basic constraints. */
  readonly authority: boolean | undefined
  readonly usage: KeyUsage | undefined
  readonly purposes: Purposes | undefined
}

export interface KeyUsage {
  readonly critical: boolean
  /** Whether bit `number` of section 4.2.1.3 is set. */
  allows(number: number): boolean
}

export interface Purposes {
  readonly critical: boolean
  /** Object identifiers; section 4.2.1.12. */
  readonly ids: readonly string[]
}

export const USAGE_DIGITAL_SIGNATURE = 0
export const USAGE_KEY_CERT_SIGN = 5

export const PURPOSE_SERVER = '1.3.6.1.5.5.7.3.1'
export const PURPOSE_CLIENT = '1.3.6.1.5.5.7.3.2'
export const PURPOSE_ANY = '2.5.29.37.0'

const basicConstraintsId = '2.5.29.19'
const keyUsageId = '2.5.29.15'
const extKeyUsageId = '2.5.29.37'

/** Of a certificate in DER, one that `node:crypto` has read already. */
export function certificateFacts(der: Uint8Array): CertificateFacts {
  const [body] = partsOf(readDer(der))
  const fields = partsOf(body)
  // The version is left out where it is 1.
  if (fields[0].tag === derContext(0)) fields.shift()
  const [serial, , issuer, validity, subject] = fields
  const [notBefore, notAfter] = partsOf(validity)
  const extensions = extensionsOf(fields)
  return {
    serial: Buffer.from(serial.content).toString('hex'),
    issuer,
    subject,
    notBefore: timeOf(notBefore),
    notAfter: timeOf(notAfter),
    authority: authorityOf(extensions.get(basicConstraintsId)),
    usage: usageOf(extensions.get(keyUsageId)),
    purposes: purposesOf(extensions.get(extKeyUsageId)),
  }
}

interface Extension {
  readonly critical: boolean
  readonly value: DerElement
}

function extensionsOf(fields: readonly DerElement[]): ReadonlyMap<string, Extension> {
  const wrapper = fields.find(({ tag }) => tag === derContext(3))
  if (!wrapper) return new Map()
  return new Map(
    partsOf(readDer(wrapper.content)).map((extension) => {
      const [id, ...rest] = partsOf(extension)
      const value = readDer(rest.at(-1)!.content)
      const critical = rest[0].tag === DER_BOOLEAN && rest[0].content[0] !== 0
      return [objectIdentifier(id.content), { critical, value }]
    }),
  )
}

function authorityOf(extension: Extension | undefined): boolean | undefined {
  if (!extension) return undefined
  const [first] = partsOf(extension.value)
  return first?.tag === DER_BOOLEAN && first.content[0] !== 0
}

function usageOf(extension: Extension | undefined): KeyUsage | undefined {
  if (!extension) return undefined
  // A bit string: the number of unused bits, then the bits, the first one highest.
  const bits = extension.value.content.subarray(1)
  return {
    critical: extension.critical,
    allows(number) {
      const octet = bits[Math.floor(number / 8)] ?? 0
      return Math.floor(octet / 2 ** (7 - (number % 8))) % 2 === 1
    },
  }
}

function purposesOf(extension: Extension | undefined): Purposes | undefined {
  if (!extension) return undefined
  const ids = partsOf(extension.value).map(({ content }) => objectIdentifier(content))
  return { critical: extension.critical, ids }
}

/** Certificates of an authority that it has taken back, by serial number in hexadecimal. */
export interface RevocationList {
  readonly issuer: DerElement
  readonly serials: ReadonlySet<string>
}

/** Of a list in DER (section 5.1). Its signature is not checked: who may write the file is trusted. */
export function revocationList(der: Uint8Array): RevocationList {
  const [body] = partsOf(readDer(der))
  const fields = partsOf(body)
  if (fields[0].tag === DER_INTEGER) fields.shift()
  const [, issuer, , ...rest] = fields
  // The time of the next update may be missing, and so may the list when it is empty.
  const entries = rest.find(({ tag }) => tag === 0x30)
  const serials = entries ? partsOf(entries).map((entry) => partsOf(entry)[0].content) : []
  return {
    issuer,
    serials: new Set(serials.map((serial) => Buffer.from(serial).toString('hex'))),
  }
}

export function isRevoked(lists: readonly RevocationList[], der: Uint8Array): boolean {
  const { issuer, serial } = certificateFacts(der)
  return lists.some(
    (list) => Buffer.compare(list.issuer.whole, issuer.whole) === 0 && list.serials.has(serial),
  )
}
