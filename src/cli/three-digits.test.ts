import { expect, test } from 'vitest'
import { threeDigits } from './three-digits.ts'

test.each([
  [0, '0'],
  [100, '100'],
  [99.96, '100'],
  [12.3456, '12.3'],
  [0.456789, '0.457'],
  [0.0123456, '0.0123'],
  [0.00001234, '1.23e-05'],
  [1234, '1.23e+03'],
  [160.5, '160'],
  [161.5, '162'],
  [999.5, '1e+03'],
  [1.125, '1.12'],
  [10.25, '10.2'],
])('%s has three digits as %s, like %%.3g', (value, text) => {
  expect(threeDigits(value)).toBe(text)
})
