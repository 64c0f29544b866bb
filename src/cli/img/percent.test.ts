import { expect, it } from 'vitest'
import { twoDecimals } from './percent.ts'

it.each([
  [0, '0.00'],
  [3.125, '3.12'],
  [9.375, '9.38'],
  [28.125, '28.12'],
  [6.25, '6.25'],
  [100, '100.00'],
  [88.88888, '88.89'],
])('%d is printed as C does', (value, text) => {
  expect(twoDecimals(value)).toBe(text)
})
