import { describe, expect, it } from 'vitest'
import { viewOf } from '../../bytes/view.ts'
import { RefcountLayout } from './refcount.ts'

describe('refcounts', () => {
  for (let order = 0; order <= 6; order++) {
    it(`of ${2 ** order} bits do not disturb their neighbours`, () => {
      const layout = new RefcountLayout(order, 512)
      expect(layout.entries).toBe((512 * 8) / 2 ** order)
      const view = viewOf(new Uint8Array(512))
      const last = layout.entries - 1
      for (const index of [0, 3, 8, last]) layout.set(view, index, layout.max)
      layout.set(view, 3, 0)
      const values = [0, 1, 2, 3, 7, 8, 9, last].map((index) => layout.get(view, index))
      expect(values).toEqual([layout.max, 0, 0, 0, 0, layout.max, 0, layout.max])
    })
  }

  it('of one can be had by the page', () => {
    for (let order = 0; order <= 6; order++) {
      const layout = new RefcountLayout(order, 512)
      const ones = viewOf(layout.ones(64))
      const entries = 512 / 2 ** order
      const values = Array.from({ length: entries }, (_, index) => layout.get(ones, index))
      expect(values).toEqual(new Array(entries).fill(1))
    }
  })

  it('below a byte are stored least significant first', () => {
    const bytes = new Uint8Array(512)
    new RefcountLayout(1, 512).set(viewOf(bytes), 1, 3)
    expect(bytes[0]).toBe(0b1100)
  })

  it('can be searched', () => {
    const layout = new RefcountLayout(4, 512)
    const view = viewOf(layout.blockOf(512, 2, 3))
    expect(layout.findUsed(view, 0, 256)).toBe(2)
    expect(layout.findFree(view, 2, 256)).toBe(5)
    expect(layout.findUsed(view, 5, 256)).toBe(256)
  })

  it('beyond 2^53 are recognisable', () => {
    const layout = new RefcountLayout(6, 512)
    const view = viewOf(new Uint8Array(512).fill(0xff))
    expect(layout.get(view, 0)).toBeGreaterThan(layout.max)
  })
})
