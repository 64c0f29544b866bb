import { expect, test } from 'vitest'
import { formatTime, threeDigits } from './support.ts'

test.each([
  [0, '0'],
  [100, '100'],
  [99.96, '100'],
  [12.3456, '12.3'],
  [0.456789, '0.457'],
  [0.0123456, '0.0123'],
  [0.00001234, '1.23e-05'],
  [1234, '1.23e+03'],
])('%s has three digits as %s, like %%.3g', (value, text) => {
  expect(threeDigits(value)).toBe(text)
})

test('times are local, and absurd ones are numbers', () => {
  const noon = new Date(2026, 10, 5, 12, 3, 4)
  expect(formatTime(noon.getTime() / 1000)).toBe('Thu Nov  5 12:03:04 2026')
  expect(formatTime(2 ** 52)).toBe(String(2 ** 52))
})
