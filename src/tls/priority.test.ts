import { createSecureContext } from 'node:tls'
import { expect, it } from 'vitest'
import { BlockError } from '../errors.ts'
import { parsePriority } from './priority.ts'

it.each([
  [undefined, 'TLSv1.2', 'TLSv1.3'],
  ['NORMAL', 'TLSv1.2', 'TLSv1.3'],
  ['NORMAL:-VERS-TLS1.3', 'TLSv1.2', 'TLSv1.2'],
  ['SECURE256:-VERS-TLS1.2:-VERS-TLS1.1', 'TLSv1.3', 'TLSv1.3'],
  ['NORMAL:-VERS-ALL:+VERS-TLS1.3', 'TLSv1.3', 'TLSv1.3'],
  ['NORMAL:-VERS-TLS-ALL:+VERS-TLS1.2', 'TLSv1.2', 'TLSv1.2'],
])('%s is from %s to %s', (priority, minVersion, maxVersion) => {
  expect(parsePriority(priority)).toMatchObject({ minVersion, maxVersion })
})

it.each([
  ['NORMAL', undefined],
  ['NORMAL:+ANON-DH:%COMPAT:%SERVER_PRECEDENCE', undefined],
  [
    'NONE:+VERS-ALL:+AES-256-GCM:+ECDHE-RSA:+AEAD:+GROUP-ALL',
    'TLS_AES_256_GCM_SHA384:ECDHE-RSA-AES256-GCM-SHA384',
  ],
  [
    'NORMAL:-CIPHER-ALL:+AES-128-CBC:-MAC-ALL:+SHA1:+VERS-TLS1.2',
    'ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES128-SHA:AES128-SHA:DHE-RSA-AES128-SHA',
  ],
  ['SUITEB192:-VERS-TLS1.3', 'ECDHE-ECDSA-AES256-GCM-SHA384'],
  ['NORMAL:%PROFILE_HIGH', 'DEFAULT:@SECLEVEL=3'],
])('%s allows %s', (priority, ciphers) => {
  const settings = parsePriority(priority)
  expect(settings.ciphers).toBe(ciphers)
  createSecureContext({ ...settings, ecdhCurve: settings.groups })
})

it('has no suite that OpenSSL does not have', () => {
  const names = parsePriority('NORMAL:+CIPHER-ALL').ciphers?.split(':') ?? []
  for (const name of names.filter((each) => !each.startsWith('TLS_'))) {
    expect(() => createSecureContext({ ciphers: name, maxVersion: 'TLSv1.2' }), name).not.toThrow()
  }
  expect(names.length).toBeGreaterThan(25)
})

it('speaks no version without ciphers for it', () => {
  expect(parsePriority('NORMAL:-KX-ALL')).toMatchObject({ minVersion: 'TLSv1.3' })
  expect(parsePriority('NORMAL:-CIPHER-ALL:+AES-256-CBC')).toMatchObject({ maxVersion: 'TLSv1.2' })
})

it('knows groups', () => {
  expect(parsePriority('NORMAL:-GROUP-ALL:+GROUP-X25519:+CURVE-SECP384R1').groups).toBe(
    'X25519:P-384',
  )
  expect(parsePriority('NORMAL').groups).toBeUndefined()
})

it.each([
  ...['FOO', 'NORMAL:-VERS-ALL', '@SYSTEM', 'NORMAL:', 'NONE', 'NORMAL:-CIPHER-ALL', 'normal'],
  ...['NORMAL:-SIGN-ALL', 'NORMAL:-GROUP-ALL', 'NORMAL:%NOPE', 'NORMAL:AES-256-GCM', 'NORMAL:+FOO'],
])('%s is refused: it would mean something else here, or nothing', (priority) => {
  expect(() => parsePriority(priority)).toThrow(BlockError)
})
