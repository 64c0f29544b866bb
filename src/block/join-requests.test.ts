import { expect, it } from 'vitest'
import { gathered, joinParts, scatter } from './join-requests.ts'

const part = (offset: number, ...bytes: number[]) => ({ offset, bytes: Uint8Array.from(bytes) })

it('joins what follows each other, in whatever order it comes', () => {
  const parts = [part(8, 3, 3), part(0, 1, 1), part(10, 4), part(2, 2), part(20, 5)]
  const joined = joinParts(parts, 100)
  expect(joined?.map(({ offset, length }) => [offset, length])).toEqual([
    [0, 3],
    [8, 3],
    [20, 1],
  ])
  expect(joined?.map((each) => [...gathered(each)])).toEqual([[1, 1, 2], [3, 3, 4], [5]])
})

it('makes no request longer than the limit, but for a part that is', () => {
  const lengths = joinParts([part(0, 1, 1), part(2, 2, 2), part(4, 3, 3, 3, 3, 3)], 4)
  expect(lengths?.map(({ length }) => length)).toEqual([4, 5])
})

it('leaves overlapping parts alone', () => {
  expect(joinParts([part(4, 1, 1), part(0, 2, 2, 2, 2, 2)], 100)).toBeUndefined()
  expect(joinParts([part(4, 1), part(4, 2)], 100)).toBeUndefined()
  expect(joinParts([], 100)).toEqual([])
})

it('gives each part its share of what was read', () => {
  const parts = [part(12, 0, 0), part(10, 0, 0)]
  const [joined] = joinParts(parts, 100) ?? []
  scatter(joined, Uint8Array.of(1, 2, 3, 4))
  expect(parts.map(({ bytes }) => [...bytes])).toEqual([
    [3, 4],
    [1, 2],
  ])
})
