/**
 * X.509 certificates and revocation lists made here, byte by byte (RFC 5280), so that tests can have
 * those that no program would issue: expired ones, of the wrong use, with a forged signature.
 */
import {
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
  sign,
  X509Certificate,
} from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

export interface Authority {
  readonly name: Name
  readonly key: KeyObject
}

/** Parts of a distinguished name, in their order: `[['O', 'varve'], ['CN', 'localhost']]`. */
export type Name = readonly (readonly ['C' | 'O' | 'OU' | 'CN', string])[]

export interface CertificateWish {
  readonly subject: Name
  readonly key: KeyObject
  /** Left out, it signs itself. */
  readonly issuer?: Authority
  /** Days from now. */
  readonly from?: number
  readonly to?: number
  /** Basic constraints; none when left out. */
  readonly ca?: boolean
  readonly keyUsage?: readonly KeyUsage[]
  readonly keyUsageCritical?: boolean
  readonly purposes?: readonly Purpose[]
  readonly purposesCritical?: boolean
  readonly dns?: readonly string[]
  readonly ip?: readonly string[]
}

const keyUsages = [
  'digitalSignature',
  'nonRepudiation',
  'keyEncipherment',
  'dataEncipherment',
  'keyAgreement',
  'keyCertSign',
  'cRLSign',
] as const
export type KeyUsage = (typeof keyUsages)[number]

const purposes = {
  server: '1.3.6.1.5.5.7.3.1',
  client: '1.3.6.1.5.5.7.3.2',
  code: '1.3.6.1.5.5.7.3.3',
  any: '2.5.29.37.0',
} as const
export type Purpose = keyof typeof purposes

export function newKey(type: 'ec' | 'rsa' = 'ec'): KeyObject {
  return type === 'ec'
    ? generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey
    : generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey
}

export function keyPem(key: KeyObject, passphrase?: string): string {
  const cipher = passphrase === undefined ? {} : { cipher: 'aes-256-cbc', passphrase }
  return key.export({ type: 'pkcs8', format: 'pem', ...cipher }) as string
}

/** PEM of a certificate. */
export function certificate(wish: CertificateWish): string {
  const { subject, key, issuer = { name: subject, key }, from = -1, to = 2 } = wish
  const publicKey = publicKeyOf(key)
  const body = sequence(
    tagged(0, integer(2)),
    integer(serial()),
    ecdsaWithSha256,
    nameOf(issuer.name),
    sequence(time(from), time(to)),
    nameOf(subject),
    publicKey,
    ...extensionsOf(wish),
  )
  return signed('CERTIFICATE', body, issuer.key)
}

/** PEM of a list of certificates, by their PEM, that the authority takes back. */
export function revocations(
  issuer: Authority,
  revoked: readonly string[],
  { from = -1, to = 2 } = {},
): string {
  const entries = revoked.map((pem) => sequence(serialOf(pem), time(from)))
  const body = sequence(
    integer(1),
    ecdsaWithSha256,
    nameOf(issuer.name),
    time(from),
    time(to),
    ...(entries.length > 0 ? [sequence(...entries)] : []),
  )
  return signed('X509 CRL', body, issuer.key)
}

/** Gives a role of a folder another certificate; the key too is new. */
export function reissue(pki: Pki, role: 'server' | 'client', changes: Partial<CertificateWish>) {
  const key = changes.key ?? newKey()
  const wish = { subject: subjectOf(role), key, issuer: pki.authority, ca: false, ...localhost }
  writeFileSync(pki.at(`${role}-key.pem`), keyPem(key), { mode: 0o600 })
  writeFileSync(pki.at(`${role}-cert.pem`), certificate({ ...wish, ...changes }))
}

export interface Pki {
  readonly folder: string
  readonly authority: Authority
  readonly at: (name: string) => string
}

/** A folder as QEMU wants it: an authority, and a server and a client, both `localhost`. */
export function makePki(folder: string): Pki {
  mkdirSync(folder, { recursive: true })
  const at = (name: string) => join(folder, name)
  const authority: Authority = { name: [['CN', 'varve test authority']], key: newKey() }
  const pki = { folder, authority, at }
  reissueAuthority(pki, {})
  reissue(pki, 'server', {})
  reissue(pki, 'client', {})
  return pki
}

export function reissueAuthority({ authority, at }: Pki, changes: Partial<CertificateWish>): void {
  const wish = { subject: authority.name, key: authority.key, ca: true, ...changes }
  writeFileSync(at('ca-cert.pem'), certificate(wish))
}

const localhost = { dns: ['localhost'], ip: ['127.0.0.1'] }

function subjectOf(role: string): Name {
  return [
    ['C', 'CH'],
    ['O', 'varve'],
    ['CN', `the ${role}`],
  ]
}

function extensionsOf(wish: CertificateWish): Buffer[] {
  const list: Buffer[] = []
  if (wish.ca !== undefined) list.push(extension('2.5.29.19', true, basicConstraints(wish.ca)))
  if (wish.keyUsage) {
    list.push(extension('2.5.29.15', wish.keyUsageCritical ?? true, usageBits(wish.keyUsage)))
  }
  if (wish.purposes) {
    const oids = wish.purposes.map((purpose) => oid(purposes[purpose]))
    list.push(extension('2.5.29.37', wish.purposesCritical ?? false, sequence(...oids)))
  }
  const names = [
    ...(wish.dns ?? []).map((name) => der(0x82, Buffer.from(name))),
    ...(wish.ip ?? []).map((ip) => der(0x87, Buffer.from(ip.split('.').map(Number)))),
  ]
  if (names.length > 0) list.push(extension('2.5.29.17', false, sequence(...names)))
  return list.length > 0 ? [tagged(3, sequence(...list))] : []
}

function extension(id: string, critical: boolean, value: Buffer): Buffer {
  return sequence(oid(id), ...(critical ? [der(1, Buffer.from([0xff]))] : []), der(4, value))
}

function basicConstraints(ca: boolean): Buffer {
  return sequence(...(ca ? [der(1, Buffer.from([0xff]))] : []))
}

function usageBits(usages: readonly KeyUsage[]): Buffer {
  const bits = usages.reduce((sum, usage) => sum + 2 ** (7 - keyUsages.indexOf(usage)), 0)
  return der(3, Buffer.from([0, bits]))
}

function signed(label: string, body: Buffer, key: KeyObject): string {
  const signature = der(3, Buffer.concat([Buffer.of(0), sign('sha256', body, key)]))
  const base64 = sequence(body, ecdsaWithSha256, signature).toString('base64')
  const lines = base64.match(/.{1,64}/g)!.join('\n')
  return `-----BEGIN ${label}-----\n${lines}\n-----END ${label}-----\n`
}

function publicKeyOf(key: KeyObject): Buffer {
  return createPublicKey(key).export({ type: 'spki', format: 'der' })
}

let lastSerial = 1000

function serial(): number {
  lastSerial += 1
  return lastSerial
}

function serialOf(pem: string): Buffer {
  return der(2, Buffer.from(new X509Certificate(pem).serialNumber, 'hex'))
}

const nameParts = { C: '2.5.4.6', O: '2.5.4.10', OU: '2.5.4.11', CN: '2.5.4.3' } as const

function nameOf(name: Name): Buffer {
  return sequence(
    ...name.map(([part, value]) =>
      der(
        0x31,
        sequence(oid(nameParts[part]), der(part === 'C' ? 0x13 : 0x0c, Buffer.from(value))),
      ),
    ),
  )
}

function time(days: number): Buffer {
  const text = new Date(Date.now() + days * 86_400_000).toISOString()
  return der(0x17, Buffer.from(`${text.slice(2, 19).replaceAll(/[-T:]/g, '')}Z`))
}

function integer(value: number): Buffer {
  const hex = value.toString(16)
  const even = hex.length % 2 === 0 ? hex : `0${hex}`
  const bytes = Buffer.from(even, 'hex')
  return der(2, bytes[0] >= 0x80 ? Buffer.concat([Buffer.of(0), bytes]) : bytes)
}

function oid(text: string): Buffer {
  const [first, second, ...rest] = text.split('.').map(Number)
  return der(6, Buffer.from([first * 40 + second, ...rest.flatMap(base128)]))
}

function base128(value: number): number[] {
  const digits = [value % 128]
  for (let left = Math.floor(value / 128); left > 0; left = Math.floor(left / 128)) {
    digits.unshift((left % 128) + 128)
  }
  return digits
}

function sequence(...parts: readonly Buffer[]): Buffer {
  return der(0x30, Buffer.concat(parts))
}

function tagged(number: number, content: Buffer): Buffer {
  return der(0xa0 + number, content)
}

function der(tag: number, content: Buffer): Buffer {
  const { length } = content
  if (length < 0x80) return Buffer.concat([Buffer.of(tag, length), content])
  if (length < 0x100) return Buffer.concat([Buffer.of(tag, 0x81, length), content])
  const size = Buffer.of(tag, 0x82, Math.floor(length / 256), length % 256)
  return Buffer.concat([size, content])
}

const ecdsaWithSha256 = sequence(oid('1.2.840.10045.4.3.2'))
