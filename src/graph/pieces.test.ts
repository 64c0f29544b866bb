import { expect, test } from 'vitest'
import { inPieces } from './pieces.ts'

test('the pieces cover the length, the last one what is left', async () => {
  const seen: number[][] = []
  await inPieces(10, 4, (at, length) => {
    seen.push([at, length])
  })
  expect(seen).toEqual([
    [0, 4],
    [4, 4],
    [8, 2],
  ])
})

test('a bounded number is under way at once', async () => {
  let underWay = 0
  let most = 0
  await inPieces(100, 1, async () => {
    most = Math.max(most, ++underWay)
    await Promise.resolve()
    underWay--
  })
  expect(most).toBe(8)
})

test('after a failure nothing more is begun, and the first is thrown when all have ended', async () => {
  const ended: number[] = []
  const work = inPieces(100, 1, async (at) => {
    await Promise.resolve()
    ended.push(at)
    if (at === 2 || at === 5) throw new Error(`piece ${at}`)
  })
  await expect(work).rejects.toThrow('piece 2')
  expect(ended).toEqual([0, 1, 2, 3, 4, 5, 6, 7])
})

test('a piece that throws on the spot ends it too', async () => {
  let count = 0
  const work = inPieces(100, 1, () => {
    if (++count === 3) throw new Error('no')
  })
  await expect(work).rejects.toThrow('no')
  expect(count).toBe(3)
})
