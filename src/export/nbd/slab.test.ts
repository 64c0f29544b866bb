import { describe, expect, it } from 'vitest'
import { maxPooledBytes } from './limits.ts'
import { SlabPool } from './slab.ts'

describe('SlabPool', () => {
  it('gives a released slab out again', () => {
    const pool = new SlabPool()
    const slab = pool.take(65536 + 28)
    pool.release(slab)
    expect(pool.take(65536)).toBe(slab)
  })

  it('keeps a slab until its last holder lets go', () => {
    const pool = new SlabPool()
    const slab = pool.take(100)
    slab.holders++
    pool.release(slab)
    expect(pool.take(100)).not.toBe(slab)
    pool.release(slab)
    expect(pool.take(100)).toBe(slab)
  })

  it('has exactly what is asked for, or a little more', () => {
    for (const length of [1, 4096, 65536 + 28, 2 ** 20 + 28, 2 ** 25 + 28]) {
      const slab = new SlabPool().take(length)
      expect(slab.bytes.length).toBeGreaterThanOrEqual(length)
      expect(slab.bytes.length).toBeLessThanOrEqual(Math.max(length * 2, 8192))
    }
  })

  it('keeps no more than its limit, and nothing very long', () => {
    const pool = new SlabPool()
    const slabs = Array.from({ length: 40 }, () => pool.take(2 ** 20))
    for (const slab of [...slabs, pool.take(2 ** 25)]) pool.release(slab)
    expect(pool.pooled).toBeLessThanOrEqual(maxPooledBytes)
    expect(pool.pooled).toBeGreaterThan(maxPooledBytes - 2 ** 21)
  })
})
