import { expect, test } from 'vitest'
import { formatTime } from './support.ts'

test('times are local, and absurd ones are numbers', () => {
  const noon = new Date(2026, 10, 5, 12, 3, 4)
  expect(formatTime(noon.getTime() / 1000)).toBe('Thu Nov  5 12:03:04 2026')
  expect(formatTime(2 ** 52)).toBe(String(2 ** 52))
})
