import { expect, it } from 'vitest'
import { WritePace } from './write-pace.ts'

/** Writes of 4 KiB that take `eachMs`, until one may not go on the spot; how many went. */
function writesUntilPause(pace: WritePace, eachMs: number, start: number, most = 10_000): number {
  for (let count = 0; count < most; count++) {
    const now = start + count * eachMs
    if (!pace.mayWrite(now)) return count
    pace.took(4096, now, now + eachMs)
  }
  return most
}

it('lets quick writes through, and one late one among them', () => {
  const pace = new WritePace()
  expect(writesUntilPause(pace, 0.005, 2000)).toBe(10_000)
  pace.took(4096, 3000, 3005)
  expect(pace.mayWrite(3005)).toBe(true)
  expect(writesUntilPause(pace, 0.005, 3005)).toBe(10_000)
  pace.took(4096, 4000, 4005)
  expect(pace.mayWrite(4005)).toBe(true)
})

it('pauses after a long wait, and after many short ones', () => {
  const long = new WritePace()
  expect(writesUntilPause(long, 20, 2000)).toBe(1)
  const short = new WritePace()
  expect(writesUntilPause(short, 0.15, 2000)).toBeLessThan(100)
})

it('tries again after the pause, and pauses longer when that is slow too', () => {
  const pace = new WritePace()
  pace.took(4096, 2000, 2020)
  expect(pace.mayWrite(2069)).toBe(false)
  expect(pace.mayWrite(2070)).toBe(true)
  pace.took(4096, 2070, 2090)
  expect(pace.mayWrite(2189)).toBe(false)
  expect(pace.mayWrite(2190)).toBe(true)
})
