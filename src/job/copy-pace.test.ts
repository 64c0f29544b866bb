import { setImmediate } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { KiB, MiB } from '../bytes/range.ts'
import { CopyPace, runWorkers } from './copy-pace.ts'

/** Copies for a while where `rate` bytes a millisecond are copied by that many workers. */
function copyFor(pace: CopyPace, ms: number, rate: (workers: number) => number, from = 0): number {
  let now = from
  while (now < from + ms) {
    now += MiB / rate(pace.workers)
    pace.copied(MiB, now)
  }
  return now
}

describe('the pace of a copy', () => {
  it('keeps few pieces in flight where more do not help', () => {
    const pace = new CopyPace(16)
    copyFor(pace, 20_000, () => 1000 * KiB)
    expect(pace.workers).toBe(2)
  })

  it('keeps many in flight to a server that is far away', () => {
    const pace = new CopyPace(16)
    copyFor(pace, 20_000, (workers) => workers * 100 * KiB)
    expect(pace.workers).toBeGreaterThan(10)
  })

  it('keeps as many as bring something', () => {
    const pace = new CopyPace(16)
    copyFor(pace, 20_000, (workers) => Math.min(workers, 6) * 100 * KiB)
    expect(pace.workers).toBeGreaterThan(4)
    expect(pace.workers).toBeLessThan(10)
  })

  it('follows when circumstances change', () => {
    const pace = new CopyPace(16)
    const now = copyFor(pace, 20_000, () => 1000 * KiB)
    copyFor(pace, 60_000, (workers) => workers * 100 * KiB, now)
    expect(pace.workers).toBeGreaterThan(10)
  })

  it('has long pieces where they do not take long', () => {
    const pace = new CopyPace(8)
    expect(pace.pieceLength).toBe(256 * KiB)
    const now = copyFor(pace, 1000, () => 1000 * KiB)
    expect(pace.pieceLength).toBe(MiB)
    copyFor(pace, 1000, () => 100 * KiB, now)
    expect(pace.pieceLength).toBe(256 * KiB)
  })

  it('stays within what it may have', () => {
    const pace = new CopyPace(1)
    copyFor(pace, 5000, (workers) => workers * 100 * KiB)
    expect(pace.workers).toBe(1)
  })
})

describe('workers', () => {
  /** A pace that changes its mind all the time. */
  const fickle = () => {
    let count = 0
    return Object.create(new CopyPace(8), { workers: { get: () => 1 + (count++ % 7) } }) as CopyPace
  }

  it('do all that there is, however many there are', async () => {
    for (let round = 0; round < 20; round++) {
      let left = 500
      let busy = 0
      await runWorkers(fickle(), async () => {
        if (left === 0) return false
        left--
        busy++
        if (left % 3 > 0) await setImmediate()
        busy--
        return true
      })
      expect([left, busy]).toEqual([0, 0])
    }
  })

  it('begin nothing after a failure, and end what they have begun', async () => {
    let begun = 0
    let ended = 0
    const working = runWorkers(new CopyPace(8), async () => {
      begun++
      await setImmediate()
      if (begun === 5) throw new Error('no')
      ended++
      return true
    })
    await expect(working).rejects.toThrow('no')
    expect(begun).toBeLessThan(12)
    expect(ended).toBeGreaterThan(0)
  })
})
