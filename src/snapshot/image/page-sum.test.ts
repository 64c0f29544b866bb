import { describe, expect, it } from 'vitest'
import { Random, seedNote } from '../../../test/support/random.ts'
import { PageSums } from './page-sum.ts'
import { PlainLanes } from './plain-lanes.ts'
import { VectorLanes } from './vector-lanes.ts'

function sumsOf(sums: PageSums, bytes: Uint8Array, pageSize: number): number[] {
  const found = new Uint32Array(bytes.length / pageSize)
  sums.fill(found, 0, bytes)
  return [...found]
}

describe('the checksum of pages', () => {
  // Images that exist have these.
  it('is what it always was', () => {
    const bytes = Uint8Array.from({ length: 8192 }, (_, index) => (index * 7) % 251)
    for (const lanes of [new PlainLanes(4096), VectorLanes.for(4096)]) {
      expect(sumsOf(new PageSums(4096, lanes), bytes, 4096)).toEqual([680744154, 2070938493])
    }
  })

  it.each([1024, 4096, 8192, 16384, 65536])(
    `of %d bytes is the same with vectors (${seedNote})`,
    (pageSize) => {
      const random = new Random()
      const vectors = VectorLanes.for(pageSize)
      expect(vectors).toBeDefined()
      const plain = new PageSums(pageSize, new PlainLanes(pageSize))
      const fast = new PageSums(pageSize, vectors)
      expect(fast.zero).toBe(plain.zero)
      for (const pages of [1, 7, 8, 9, 20]) {
        // Off the boundaries of words, too.
        const bytes = random.bytes(pages * pageSize + 1).subarray(1)
        bytes.fill(0, 0, random.chance(0.5) ? pageSize : 0)
        expect(sumsOf(fast, bytes, pageSize)).toEqual(sumsOf(plain, bytes, pageSize))
      }
    },
  )

  it(`changes with every bit (${seedNote})`, () => {
    const random = new Random()
    const sums = new PageSums(4096)
    const bytes = random.bytes(4096)
    const [before] = sumsOf(sums, bytes, 4096)
    for (let round = 0; round < 1000; round++) {
      const at = random.below(4096)
      const bit = 1 << random.below(8)
      bytes[at] ^= bit
      expect(sumsOf(sums, bytes, 4096)).not.toEqual([before])
      bytes[at] ^= bit
    }
  })
})
