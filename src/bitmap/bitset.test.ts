import fc from 'fast-check'
import { expect, test } from 'vitest'
import { Bitset } from './bitset.ts'

test('behaves like a set of integers, across page borders', () => {
  const capacity = 2 ** 18 + 1000
  const edge = fc.oneof(
    fc.integer({ min: 0, max: capacity }),
    fc.integer({ min: 2 ** 18 - 70, max: 2 ** 18 + 70 }),
    fc.integer({ min: capacity - 40, max: capacity }),
  )
  const change = fc.tuple(fc.boolean(), edge, edge)
  fc.assert(
    fc.property(fc.array(change, { maxLength: 12 }), (changes) => {
      const bits = new Bitset(capacity)
      const model = new Uint8Array(capacity)
      for (const [member, one, other] of changes) {
        const [start, end] = one < other ? [one, other] : [other, one]
        if (member) bits.add(start, end)
        else bits.delete(start, end)
        model.fill(member ? 1 : 0, start, end)
      }
      expect(bits.size).toBe(model.reduce((sum, bit) => sum + bit, 0))
      for (const [, start] of changes) {
        const next = model.indexOf(1, start)
        expect(bits.next(start)).toBe(next < 0 ? capacity : next)
        const absent = model.indexOf(0, start)
        expect(bits.nextAbsent(start)).toBe(absent < 0 ? capacity : absent)
        if (start < capacity) expect(bits.has(start)).toBe(model[start] === 1)
      }
    }),
    { numRuns: 60 },
  )
})

test('a set over a 16 TiB disk begins without memory and is searched at once', () => {
  const bits = new Bitset(2 ** 28)
  bits.add(0, 2 ** 28)
  bits.delete(0, 2 ** 28 - 5)
  expect(bits.next(0)).toBe(2 ** 28 - 5)
  expect(bits.size).toBe(5)
})
