import { renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { scratchFolder } from '../../test/support/folder.ts'
import { FileAuthorization } from './authorization-options.ts'

const folder = scratchFolder('authorization')
const file = join(folder, 'rules.json')

function allowing(...names: string[]): string {
  return JSON.stringify({ rules: names.map((match) => ({ match, policy: 'allow' })) })
}

/** As an administrator does it: another file takes the place. */
function replaceBy(text: string): void {
  writeFileSync(`${file}.new`, text)
  renameSync(`${file}.new`, file)
}

it('reads a file of rules anew when it has changed', () => {
  writeFileSync(file, allowing('CN=a'))
  const rules = new FileAuthorization(file, true)
  expect([rules.allows('CN=a'), rules.allows('CN=b')]).toEqual([true, false])
  replaceBy(allowing('CN=b'))
  expect([rules.allows('CN=a'), rules.allows('CN=b')]).toEqual([false, true])
})

it('does not, when it is not to', () => {
  writeFileSync(file, allowing('CN=a'))
  const rules = new FileAuthorization(file, false)
  replaceBy(allowing('CN=b'))
  expect([rules.allows('CN=a'), rules.allows('CN=b')]).toEqual([true, false])
})

it('lets nobody in while the file makes no sense, or is gone', () => {
  writeFileSync(file, allowing('CN=a'))
  const rules = new FileAuthorization(file, true)
  replaceBy('{')
  expect(() => rules.allows('CN=a')).toThrow('JSON')
  replaceBy(allowing('CN=a'))
  expect(rules.allows('CN=a')).toBe(true)
  rmSync(file)
  expect(() => rules.allows('CN=a')).toThrow('No such file or directory')
})

it.each([
  ['[]', 'must contain a JSON object'],
  ['{"rules": 1}', "Invalid parameter type for 'rules', expected: array"],
  ['{"rules": [{"match": "a"}]}', "Parameter 'rules[0].policy' is missing"],
  ['{"bogus": 1}', "Parameter 'bogus' is unexpected"],
  ['{"policy": "perhaps"}', "Parameter 'policy' does not accept value 'perhaps'"],
])('refuses %s', (text, message) => {
  writeFileSync(file, text)
  expect(() => new FileAuthorization(file, true)).toThrow(message)
})
