import { expect, test } from 'vitest'
import { SeededRandom } from '../../../bytes/seeded-random.ts'
import { countRun, highOf, lowOf, setEntry } from '../l2-table.ts'
import { EntryRuns } from './entry-runs.ts'

const step = 65536
const entries = 4096

/** Runs of any length, across 4 GiB and of a length that is not even, too. */
function fill(view: DataView, random: SeededRandom): void {
  for (let index = 0; index < entries; ) {
    const start = random.below(2 ** 20) * step
    const length = Math.min(entries - index, 1 + random.below(200))
    for (let at = 0; at < length; at++, index++) {
      const offset = start + at * step
      setEntry(view, index, 0x80000000 + Math.floor(offset / 2 ** 32), offset % 2 ** 32)
    }
  }
}

test('runs are as long as when entries are looked at one by one', () => {
  const random = new SeededRandom(7)
  const runs = new EntryRuns(entries * 8, step)
  const view = new DataView(runs.table.buffer, runs.table.byteOffset, runs.table.length)
  const seen = new Set<number>()
  for (let round = 0; round < 20; round++) {
    fill(view, random)
    for (let index = 0; index < entries; index += 1 + random.below(40)) {
      const limit = 1 + random.below(entries - index)
      const [high, low] = [highOf(view, index), lowOf(view, index)]
      const length = runs.length(index, limit, high, low)
      expect(length).toBe(countRun(view, index, limit, high, low, step))
      seen.add(length)
    }
  }
  expect(seen.size).toBeGreaterThan(150)
})
