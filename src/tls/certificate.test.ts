/** On certificates from `test/support/certificates.ts`, and on bytes that are none. */
import { X509Certificate } from 'node:crypto'
import { expect, it } from 'vitest'
import { certificate, type Name, newKey, revocations } from '../../test/support/certificates.ts'
import { BlockError } from '../errors.ts'
import {
  certificateFacts,
  isRevoked,
  PURPOSE_CLIENT,
  revocationList,
  USAGE_DIGITAL_SIGNATURE,
  USAGE_KEY_CERT_SIGN,
} from './certificate.ts'
import { readDer } from './der.ts'
import { distinguishedName } from './distinguished-name.ts'
import { pemParts } from './pem.ts'

const key = newKey()
const issuer = { name: [['CN', 'authority']] as Name, key }

function derOf(subject: Name, more: object = {}): Uint8Array {
  return new X509Certificate(certificate({ subject, key, issuer, ...more })).raw
}

it('tells what a certificate says of itself', () => {
  const der = derOf([['CN', 'x']], {
    ca: true,
    keyUsage: ['digitalSignature', 'cRLSign'],
    purposes: ['client'],
    purposesCritical: true,
  })
  const facts = certificateFacts(der)
  expect(facts).toMatchObject({
    authority: true,
    purposes: { critical: true, ids: [PURPOSE_CLIENT] },
    usage: { critical: true },
  })
  expect(facts.usage?.allows(USAGE_DIGITAL_SIGNATURE)).toBe(true)
  expect(facts.usage?.allows(USAGE_KEY_CERT_SIGN)).toBe(false)
  const known = new X509Certificate(Buffer.from(der))
  expect(facts.notBefore).toBe(Date.parse(known.validFrom))
  expect(facts.notAfter).toBe(Date.parse(known.validTo))
})

it('tells apart no constraints from none of an authority', () => {
  expect(certificateFacts(derOf([['CN', 'x']])).authority).toBeUndefined()
  expect(certificateFacts(derOf([['CN', 'x']], { ca: false })).authority).toBe(false)
})

it.each<[string, Name]>([
  [
    'C=CH,O=varve,CN=a name',
    [
      ['C', 'CH'],
      ['O', 'varve'],
      ['CN', 'a name'],
    ],
  ],
  [
    'OU=a,OU=b',
    [
      ['OU', 'a'],
      ['OU', 'b'],
    ],
  ],
  ['CN=a\\,b', [['CN', 'a,b']]],
  ['CN=a\\+\\"\\\\\\<\\>\\;', [['CN', 'a+"\\<>;']]],
  ['CN=\\#a', [['CN', '#a']]],
  ['CN=\\ a\\ ', [['CN', ' a ']]],
  ['CN=a=b', [['CN', 'a=b']]],
  ['CN=zürich', [['CN', 'zürich']]],
])('writes a name as GnuTLS does: %s', (text, name) => {
  expect(distinguishedName(certificateFacts(derOf(name)).subject)).toBe(text)
})

it('has no text for a name without parts', () => {
  expect(distinguishedName(certificateFacts(derOf([])).subject)).toBeUndefined()
})

it('finds revoked certificates, of the authority that has revoked them', () => {
  const pem = certificate({ subject: [['CN', 'x']], key, issuer })
  const other = certificate({ subject: [['CN', 'x']], key, issuer })
  const [list] = pemParts(Buffer.from(revocations(issuer, [pem])), 'X509 CRL').map(revocationList)
  expect(isRevoked([list], new X509Certificate(pem).raw)).toBe(true)
  expect(isRevoked([list], new X509Certificate(other).raw)).toBe(false)
  const stranger = { name: [['CN', 'stranger']] as Name, key }
  const foreign = pemParts(Buffer.from(revocations(stranger, [pem])), 'X509 CRL')
  expect(isRevoked(foreign.map(revocationList), new X509Certificate(pem).raw)).toBe(false)
  const empty = pemParts(Buffer.from(revocations(issuer, [])), 'X509 CRL')
  expect(isRevoked(empty.map(revocationList), new X509Certificate(pem).raw)).toBe(false)
})

it.each(['', '30', '3080', '308400', '30ff', '3085000000000100', '1f0100', '300201'])(
  'refuses bytes that are no element: %s',
  (hex) => {
    expect(() => readDer(Buffer.from(hex, 'hex'))).toThrow(BlockError)
  },
)
