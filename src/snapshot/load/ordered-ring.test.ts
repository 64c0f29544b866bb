import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { Random, seedNote } from '../../../test/support/random.ts'
import { orderedRing } from './ordered-ring.ts'

const numbers = Array.from({ length: 100 }, (_, index) => index)

describe('the ordered ring', () => {
  it(`hands out in order what completes in any order (${seedNote})`, async () => {
    const random = new Random()
    let flying = 0
    let most = 0
    const results: number[] = []
    const ring = orderedRing(numbers, 8, async (item) => {
      most = Math.max(most, ++flying)
      await sleep(random.below(4))
      flying--
      return item
    })
    for await (const result of ring) results.push(result)
    expect(results).toEqual(numbers)
    expect(most).toBe(8)
  })

  it('begins nothing while what comes next is there at once', async () => {
    const begun: number[] = []
    const ring = orderedRing(numbers, 8, (item) => {
      begun.push(item)
      return item < 5 ? item : Promise.resolve(item)
    })
    const results: number[] = []
    for await (const result of ring) {
      if (result < 5) expect(begun.at(-1)).toBe(result)
      results.push(result)
    }
    expect(results).toEqual(numbers)
  })

  it('gives a slot to one request at a time, until its result was consumed', async () => {
    const slots = new Array<number | undefined>(4).fill(undefined)
    const ring = orderedRing(numbers, 4, async (item, slot) => {
      slots[slot] = item
      await sleep(item % 3)
      return { item, slot }
    })
    for await (const { item, slot } of ring) {
      await sleep(1)
      expect(slots[slot]).toBe(item)
    }
  })

  it('fails in order, once nothing is in flight any more', async () => {
    let flying = 0
    const seen: number[] = []
    const ring = orderedRing(numbers, 6, async (item) => {
      flying++
      await sleep(item === 5 ? 0 : 5)
      flying--
      if (item === 5) throw new Error('broken')
      return item
    })
    const consume = async () => {
      for await (const item of ring) seen.push(item)
    }
    await expect(consume()).rejects.toThrow('broken')
    expect(seen).toEqual([0, 1, 2, 3, 4])
    expect(flying).toBe(0)
  })

  it('waits for what is in flight when the consumer leaves', async () => {
    let flying = 0
    const ring = orderedRing(numbers, 6, async (item) => {
      flying++
      await sleep(5)
      flying--
      return item
    })
    for await (const item of ring) if (item === 2) break
    expect(flying).toBe(0)
  })
})
