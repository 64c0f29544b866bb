import { expect, it } from 'vitest'
import { globMatches } from './glob.ts'

it.each([
  ['*', '', true],
  ['*', 'C=CH,O=varve', true],
  ['C=CH,*', 'C=CH,O=varve', true],
  ['*varve*', 'C=CH,O=varve,CN=x', true],
  ['**v**e', 'varve', true],
  ['v?rve', 'varve', true],
  ['varve?', 'varve', false],
  ['', '', true],
  ['', 'x', false],
  ['C=[A-C]H', 'C=CH', false],
  ['c=ch', 'C=CH', false],
  ['z?rich', 'zürich', true],
  ['a*b*c', 'a-b-b-d', false],
])('%s against %s: %s', (pattern, text, expected) => {
  expect(globMatches(pattern, text)).toBe(expected)
})

it('is not slow on purpose', () => {
  const text = 'a'.repeat(5000)
  const started = performance.now()
  expect(globMatches(`${'*a'.repeat(200)}b`, text)).toBe(false)
  expect(performance.now() - started).toBeLessThan(2000)
})
