import fc from 'fast-check'
import { expect, test } from 'vitest'
import { GiB, KiB, TiB } from '../bytes/range.ts'
import { DirtyBitmap } from './dirty-bitmap.ts'

const size = 1000 * KiB + 300

test('marking rounds out, clearing rounds in, at any granularity', () => {
  const change = fc.record({
    verb: fc.constantFrom('mark', 'clear'),
    offset: fc.integer({ min: 0, max: size - 1 }),
    length: fc.integer({ min: 1, max: 100_000 }),
  })
  fc.assert(
    fc.property(fc.constantFrom(512, 4096, 65536), fc.array(change), (granularity, changes) => {
      const bitmap = new DirtyBitmap({ granularity, size })
      const model = new Uint8Array(Math.ceil(size / granularity))
      for (const { verb, offset, length } of changes) {
        const end = Math.min(size, offset + length)
        for (const [index] of model.entries()) {
          const [from, to] = [index * granularity, Math.min(size, (index + 1) * granularity)]
          if (verb === 'mark' && offset < to && from < end) model[index] = 1
          if (verb === 'clear' && offset <= from && to <= end) model[index] = 0
        }
        if (verb === 'mark') bitmap.mark(offset, end - offset)
        else bitmap.clear(offset, end - offset)
      }
      const seen = new Uint8Array(model.length)
      for (const run of bitmap.runs()) {
        expect(bitmap.nextClean(run.offset)).toBe(run.offset + run.length)
        seen.fill(1, run.offset / granularity, Math.ceil((run.offset + run.length) / granularity))
      }
      expect(seen).toEqual(model)
      expect(bitmap.count).toBe(granularity * model.reduce((sum, bit) => sum + bit, 0))
    }),
  )
})

test('runs are cut to where they are looked for', () => {
  const bitmap = new DirtyBitmap({ granularity: 4096, size })
  bitmap.mark(5000, 10)
  expect(bitmap.nextDirty(4500, 6000)).toEqual({ offset: 4500, length: 1500 })
  expect(bitmap.nextDirty(8192)).toBeUndefined()
  bitmap.mark(size - 1, 1)
  expect(bitmap.nextDirty(8192)).toEqual({ offset: 1000 * KiB, length: 300 })
})

test('a frozen bitmap keeps its moment; afterwards it is what came later, or both', () => {
  for (const succeeded of [true, false]) {
    const bitmap = new DirtyBitmap({ granularity: 512, size })
    bitmap.mark(0, 1)
    bitmap.freeze('a backup')
    bitmap.mark(1024, 1)
    expect([...bitmap.runs()]).toEqual([{ offset: 0, length: 512 }])
    if (succeeded) bitmap.abdicate()
    else bitmap.reclaim()
    expect([bitmap.has(0), bitmap.has(1024)]).toEqual([!succeeded, true])
    expect(bitmap.busy).toBeUndefined()
  }
})

test('a disabled bitmap records nothing, but takes what is merged', () => {
  const fine = new DirtyBitmap({ granularity: 512, size })
  const coarse = new DirtyBitmap({ granularity: 65536, size, enabled: false })
  coarse.mark(0, 512)
  expect(coarse.count).toBe(0)
  fine.mark(65536 + 700, 1)
  coarse.merge(fine)
  expect([...coarse.runs()]).toEqual([{ offset: 65536, length: 65536 }])
  expect(() => fine.merge(new DirtyBitmap({ granularity: 512, size: 512 }))).toThrow('sizes')
})

test('follows the size of the disk', () => {
  const bitmap = new DirtyBitmap({ granularity: 512, size: TiB })
  bitmap.mark(GiB - 512, 1024)
  bitmap.mark(TiB - 1, 1)
  bitmap.resize(GiB)
  expect([...bitmap.runs()]).toEqual([{ offset: GiB - 512, length: 512 }])
  bitmap.resize(TiB)
  expect([...bitmap.runs()]).toEqual([{ offset: GiB - 512, length: 512 }])
})

test('bits go into files and come back', () => {
  const bitmap = new DirtyBitmap({ granularity: 512, size })
  for (const at of [0, 512 * 31, 512 * 32, 70_000, size - 1]) bitmap.mark(at, 600)
  const bytes = new Uint8Array(512)
  bitmap.writeBits(0, bytes)
  expect([bytes[0], bytes[3], bytes[4]]).toEqual([3, 128, 3])
  const copy = new DirtyBitmap({ granularity: 512, size })
  copy.addBits(0, bytes)
  expect([...copy.runs()]).toEqual([...bitmap.runs()])
})

test('refuses granularities that are none, and more bits than the limit', () => {
  for (const granularity of [0, 256, 1000, 4 * GiB]) {
    expect(() => new DirtyBitmap({ granularity, size })).toThrow('granularity')
  }
  expect(() => new DirtyBitmap({ granularity: 512, size: 2 ** 52 })).toThrow('limit')
})
