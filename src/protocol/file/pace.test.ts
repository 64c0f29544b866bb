import { expect, it } from 'vitest'
import { Pace } from './pace.ts'

/** Requests of 4 KiB that take `eachMs`, until one may not go on the spot; how many went. */
function requestsUntilPause(pace: Pace, eachMs: number, start: number, most = 10_000): number {
  for (let count = 0; count < most; count++) {
    const now = start + count * eachMs
    if (!pace.allows(now)) return count
    pace.took(4096, now, now + eachMs)
  }
  return most
}

it('lets quick requests through, and one late one among them', () => {
  const pace = new Pace()
  expect(requestsUntilPause(pace, 0.005, 2000)).toBe(10_000)
  pace.took(4096, 3000, 3005)
  expect(pace.allows(3005)).toBe(true)
  expect(requestsUntilPause(pace, 0.005, 3005)).toBe(10_000)
  pace.took(4096, 4000, 4005)
  expect(pace.allows(4005)).toBe(true)
})

it('does not take work for waiting', () => {
  expect(requestsUntilPause(new Pace(), 0.12, 2000)).toBe(10_000)
})

it('pauses after a long wait, and after many short ones', () => {
  const long = new Pace()
  expect(requestsUntilPause(long, 20, 2000)).toBe(1)
  const short = new Pace()
  expect(requestsUntilPause(short, 0.35, 2000)).toBeLessThan(100)
})

it('tries again after the pause, and pauses longer when that is slow too', () => {
  const pace = new Pace()
  pace.took(4096, 2000, 2020)
  expect(pace.allows(2069)).toBe(false)
  expect(pace.allows(2070)).toBe(true)
  pace.took(4096, 2070, 2090)
  expect(pace.allows(2189)).toBe(false)
  expect(pace.allows(2190)).toBe(true)
})
