import { expect, test } from 'vitest'
import { Random, runSeed, seedNote } from '../../../test/support/random.ts'
import { ClusterSet } from './cluster-set.ts'

test(`agrees with a Set, whatever the order (${seedNote})`, () => {
  const random = new Random(runSeed)
  const capacity = 10_000
  const set = new ClusterSet(capacity, { left: 10 })
  const expected = new Set<number>()
  for (let step = 0; step < 30_000; step++) {
    const cluster = random.below(capacity)
    expect(set.add(cluster)).toBe(!expected.has(cluster))
    expected.add(cluster)
    expect(set.size).toBe(expected.size)
  }
  let missing = 0
  while (expected.has(missing)) missing++
  expect(set.firstMissing()).toBe(missing < capacity ? missing : undefined)
  for (let cluster = 0; cluster < capacity; cluster++) set.add(cluster)
  expect(set.complete).toBe(true)
  expect(set.firstMissing()).toBeUndefined()
  expect(set.add(77)).toBe(false)
})

test('finds what is missing behind full pages', () => {
  const set = new ClusterSet(20_000, { left: 2 })
  for (let cluster = 0; cluster < 9000; cluster++) set.add(cluster)
  for (let cluster = 9001; cluster < 20_000; cluster++) set.add(cluster)
  expect(set.firstMissing()).toBe(9000)
  expect(set.has(9000)).toBe(false)
  expect(set.has(8999)).toBe(true)
})

test('full pages give their share of the budget back, half-full ones do not', () => {
  const budget = { left: 2 }
  const set = new ClusterSet(2 ** 32, budget)
  for (let cluster = 0; cluster < 3 * 4096; cluster++) set.add(cluster)
  expect(budget.left).toBe(2)
  set.add(2 ** 32 - 1)
  set.add(2 ** 31)
  expect(() => set.add(2 ** 30)).toThrow(expect.objectContaining({ code: 'UNSUPPORTED' }))
})
