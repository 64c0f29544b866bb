import { describe, expect, it } from 'vitest'
import { Random, seedNote } from '../../../test/support/random.ts'
import { memoryImage } from '../../../test/support/snapshot.ts'
import type { SnapshotRecord } from './record.ts'
import { SumTable, writeSums } from './sum-table.ts'

/** Sums of a piece of 1 MiB. */
const pieceSums = 262144
const offset = 1024

async function tableOf(count: number) {
  const random = new Random()
  const sums = Uint32Array.from({ length: count }, () => random.below(2 ** 32))
  const image = memoryImage(4096, offset + count * 4 + 4096)
  const hashed = await writeSums(image.state, offset, sums.slice())
  const record = { ...hashed, sumsOffset: offset, ramEnd: count * 4096, pageSize: 4096 }
  return { sums, image, record: record as SnapshotRecord }
}

describe('the table of checksums', () => {
  it.each([1, 1000, pieceSums, pieceSums + 1, 3 * pieceSums - 5])(
    `of %d pages is read as it was written (${seedNote})`,
    async (count) => {
      const { sums, image, record } = await tableOf(count)
      const table = await SumTable.open(image.state, record)
      expect(Buffer.from((await table.whole()).buffer).equals(Buffer.from(sums.buffer))).toBe(true)
      expect(record.hashedInPieces).toBe(count > pieceSums)
    },
  )

  it('reads only what is wanted, once there is more than a piece', async () => {
    const { sums, image, record } = await tableOf(2 * pieceSums)
    const table = await SumTable.open(image.state, record)
    const last = 2 * pieceSums - 1
    await table.load(last, 1)
    expect([table.get(last), table.get(0)]).toEqual([sums[last], undefined])
    await table.load(pieceSums - 1, 2)
    expect([table.get(0), table.get(pieceSums)]).toEqual([sums[0], sums[pieceSums]])
    expect(table.load(0, last + 1)).toBeUndefined()
  })

  it('is refused where it was altered, a piece at a time', async () => {
    const { image, record } = await tableOf(2 * pieceSums)
    image.stateBytes[offset + 5] ^= 1
    const table = await SumTable.open(image.state, record)
    await table.load(pieceSums, 1)
    await expect(table.load(0, 1)).rejects.toMatchObject({ code: 'CORRUPT_IMAGE' })
    await expect(table.whole()).rejects.toMatchObject({ code: 'CORRUPT_IMAGE' })
    const whole = await tableOf(100)
    whole.image.stateBytes[offset + 5] ^= 1
    await expect(SumTable.open(whole.image.state, whole.record)).rejects.toThrow(
      /not what was saved/,
    )
  })

  it('has hashes that are checked before they are used', async () => {
    const { sums, image, record } = await tableOf(2 * pieceSums)
    image.stateBytes[offset + sums.length * 4 + 7] ^= 1
    await expect(SumTable.open(image.state, record)).rejects.toMatchObject({
      code: 'CORRUPT_IMAGE',
    })
  })
})
