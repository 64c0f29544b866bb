import { expect, it } from 'vitest'
import { passesEvent, wrap } from './ring.ts'

it.each([
  // The event is the first one, one in between, the last one; not yet, no more.
  [5, 8, 5, true],
  [6, 8, 5, true],
  [7, 8, 5, true],
  [8, 8, 5, false],
  [4, 8, 5, false],
  // Around the end of the indices.
  [65535, 1, 65534, true],
  [0, 1, 65534, true],
  [1, 1, 65534, false],
  // Nothing has passed.
  [5, 5, 5, false],
])('the index %d is passed on the way to %d from %d: %s', (event, after, before, passed) => {
  expect(passesEvent(event, after, before)).toBe(passed)
})

it('indices go around', () => {
  expect([wrap(65535 + 1), wrap(3 - 5)]).toEqual([0, 65534])
})
