import { createCipheriv, randomBytes } from 'node:crypto'
import { expect, test } from 'vitest'
import { SecretTable } from './secrets.ts'

test('a secret is given by its bytes, as text or as Base64', () => {
  const secrets = new SecretTable()
  secrets.add({ id: 'text', data: 'abc' })
  secrets.add({ id: 'base64', data: 'YWJj', format: 'base64' })
  expect(Buffer.from(secrets.get('text')).toString()).toBe('abc')
  expect(Buffer.from(secrets.get('base64')).toString()).toBe('abc')
})

test('a secret that another one protects', () => {
  const key = randomBytes(32)
  const iv = randomBytes(16)
  const cipher = createCipheriv('aes-256-cbc', key, iv)
  const data = Buffer.concat([cipher.update('abc'), cipher.final()]).toString('base64')
  const secrets = new SecretTable()
  secrets.add({ id: 'key', data: key.toString('base64'), format: 'base64' })
  const rest = { data, keyid: 'key', format: 'base64' }
  secrets.add({ id: 's', ...rest, iv: iv.toString('base64') })
  expect(Buffer.from(secrets.get('s')).toString()).toBe('abc')
  expect(() => secrets.add({ id: 't', ...rest })).toThrow('IV is required to decrypt secret')
  expect(() => secrets.add({ id: 't', ...rest, iv: 'YWJj' })).toThrow(
    'IV should be 16 bytes in length not 3',
  )
  expect(() => secrets.add({ id: 't', data, keyid: 's', iv: 'YWJj' })).toThrow(
    'Key should be 32 bytes in length',
  )
})

test.each([
  [{ id: 'x' }, "Either 'file' or 'data' must be provided"],
  [{ id: 'x', data: 'a', file: 'b' }, "'file' and 'data' are mutually exclusive"],
  [{ id: 'x', data: 'a*', format: 'base64' }, 'Base64 data contains invalid characters'],
  [{ id: 'x', data: 'a', format: 'hex' }, "Parameter 'format' does not accept value 'hex'"],
  [{ id: '1', data: 'a' }, "Parameter 'id' expects an identifier"],
  [{ data: 'a' }, "Parameter 'id' is missing"],
  [{ id: 'x', data: 'a', keyid: 'y' }, "No secret with id 'y'"],
  [{ id: 'x', data: 'a', other: '1' }, "Parameter 'other' is unexpected"],
  [{ id: 'x', file: '/nonexistent' }, 'Unable to read /nonexistent: Failed to open file'],
])('%o is refused', (options, message) => {
  expect(() => new SecretTable().add(options)).toThrow(message)
})

test('an id is used once', () => {
  const secrets = new SecretTable()
  secrets.add({ id: 's', data: '1' })
  expect(() => secrets.add({ id: 's', data: '2' })).toThrow('attempt to add duplicate property')
  expect(() => secrets.get('t')).toThrow("No secret with id 't'")
})
