import { describe, expect, it } from 'vitest'
import { newImage, openImage } from '../../../test/support/qcow2.ts'
import { Random, seedNote } from '../../../test/support/random.ts'
import { plainIo, plainWriteIo } from '../../block/layer.ts'
import { BlockError } from '../../errors.ts'
import { ClusterMarks } from './cluster-marks.ts'
import { incompatible } from './header.ts'
import { guardTemplates, MetadataGuard } from './metadata-guard.ts'

describe('marks on clusters', () => {
  it(`are found in any range (${seedNote})`, () => {
    const random = new Random()
    const marks = new ClusterMarks()
    const model = new Map<number, number>()
    // Far apart and close together, low and beyond 2^32.
    const places = [0, 1000, 8192 * 500, 2 ** 33]
    for (let step = 0; step < 2000; step++) {
      const start = random.pick(places)
      const [offset, count] = random.range(5000, 1, 20)
      const bit = 2 ** random.below(9)
      const adds = random.chance(0.6)
      if (adds) marks.add(start + offset, count, bit)
      else marks.delete(start + offset, count, bit)
      for (let at = start + offset; at < start + offset + count; at++) {
        const now = model.get(at) ?? 0
        model.set(at, adds ? now | bit : now & ~bit)
      }
      const [from, length] = random.range(5000, 1)
      const bits = random.chance(0.5) ? 0xffff : bit
      let expected = -1
      for (let at = start + from; at < start + from + length && expected < 0; at++) {
        if (((model.get(at) ?? 0) & bits) !== 0) expected = at
      }
      expect(marks.firstOf(start + from, length, bits), `step ${step}`).toBe(expected)
      expect(marks.of(start + from)).toBe(model.get(start + from) ?? 0)
    }
  })
})

describe('the guard of metadata', () => {
  const guard = (kinds: readonly (typeof guardTemplates.all)[number][]) =>
    new MetadataGuard(
      kinds,
      512,
      (message, offset) => new BlockError('CORRUPT_IMAGE', message, { offset }),
    )

  it('names what would be overwritten, and where it begins', () => {
    const all = guard(guardTemplates.all)
    all.add('active-l1', 1024, 100)
    all.add('refcount-block', 2048, 512)
    expect(() => all.check(512, 512)).not.toThrow()
    expect(() => all.check(0, 4096)).toThrow(
      'Preventing invalid write on metadata (overlaps with active L1 table)',
    )
    expect(() => all.check(2559, 1)).toThrow('overlaps with refcount block')
    expect(() => all.checkTable('refcount-block', 2048, 512)).not.toThrow()
    expect(() => all.checkTable('active-l2', 2048, 512)).toThrow('overlaps with refcount block')
  })

  it('guards only what it was told to, and no longer than it is there', () => {
    const some = guard(guardTemplates.constant)
    some.add('active-l2', 512, 512)
    some.add('active-l1', 1024, 512)
    some.add('snapshot-table', 1024, 512)
    expect(some.covers(512, 512)).toBe(false)
    some.remove('active-l1', 1024, 512)
    expect(some.covers(1535, 1)).toBe(true)
    some.remove('snapshot-table', 1024, 512)
    expect(some.covers(1024, 512)).toBe(false)
  })

  it('costs a request well below a microsecond, whatever it guards', () => {
    const all = guard(guardTemplates.all)
    for (let cluster = 0; cluster < 100_000; cluster += 2) all.add('active-l2', cluster * 512, 512)
    const rounds = 200_000
    const start = performance.now()
    let hits = 0
    for (let at = 0; at < rounds; at++) if (all.covers((at % 50_000) * 1024 + 512, 512)) hits++
    const nanoseconds = ((performance.now() - start) * 1e6) / rounds
    expect(hits).toBe(0)
    expect(nanoseconds).toBeLessThan(2000)
  })
})

describe('an image whose tables lie where its data is said to be', () => {
  it('refuses the write, is marked at once, and neither takes nor shows more', async () => {
    const file = await newImage({ size: 1024 * 1024 })
    const { layer } = await openImage(file)
    await layer.write(0, new Uint8Array(131072).fill(1), plainWriteIo)
    await layer[Symbol.asyncDispose]()
    const again = await openImage(file)
    const { header, l2Tables } = again.image
    const l1 = header.current.l1TableOffset
    const entry = new Uint8Array(8)
    new DataView(entry.buffer).setBigUint64(0, (1n << 63n) | BigInt(l1))
    await file.write(l2Tables.offsetAt(0), entry, plainWriteIo)

    const tableBefore = new Uint8Array(512)
    await file.read(l1, tableBefore, plainIo)
    const write = async (at: number) =>
      await again.layer.write(at, new Uint8Array(65536).fill(2), plainWriteIo)
    await expect(write(0)).rejects.toMatchObject({ code: 'CORRUPT_IMAGE', errno: 'EIO' })
    const head = new Uint8Array(128)
    await file.read(0, head, plainIo)
    expect(new DataView(head.buffer).getBigUint64(72) & incompatible.corrupt).toBe(
      incompatible.corrupt,
    )
    await expect(write(65536)).rejects.toMatchObject({ errno: 'ENOMEDIUM' })
    await expect(again.layer.truncate(512, plainIo)).rejects.toMatchObject({ errno: 'ENOMEDIUM' })
    // What it would show is not to be believed.
    const read = async () => await again.layer.read(65536, new Uint8Array(65536), plainIo)
    await expect(read()).rejects.toMatchObject({ errno: 'ENOMEDIUM' })
    await again.layer[Symbol.asyncDispose]()
    const tableAfter = new Uint8Array(512)
    await file.read(l1, tableAfter, plainIo)
    expect(tableAfter).toEqual(tableBefore)
    await expect(openImage(file)).rejects.toMatchObject({ code: 'CORRUPT_IMAGE' })
  })

  // Without the mark of sole ownership an entry is not written in place, but given up.
  for (const [how, flag] of [
    ['plain', 0n],
    ['compressed', 1n << 62n],
  ] as const) {
    it(`keeps a table whose cluster a ${how} entry gives up`, async () => {
      const clusterSize = 4096
      const file = await newImage({ size: 1024 * 1024, cluster_size: clusterSize })
      const { layer, image } = await openImage(file)
      const data = new Uint8Array(16 * clusterSize).fill(1)
      await layer.write(0, data, plainWriteIo)
      await layer.flush(plainIo)
      const l1 = image.header.current.l1TableOffset
      const l2 = image.l2Tables.offsetAt(0)
      await layer[Symbol.asyncDispose]()
      const entry = new Uint8Array(8)
      new DataView(entry.buffer).setBigUint64(0, flag | BigInt(l1))
      for (const index of [0, 1]) await file.write(l2 + 8 * index, entry, plainWriteIo)

      const again = (await openImage(file)).layer
      const work = async (step: () => unknown) => {
        await step()
        await again.flush(plainIo)
      }
      await work(() => again.discard(0, clusterSize, plainIo))
      await work(() => again.write(clusterSize, data.subarray(0, clusterSize), plainWriteIo))
      const more = new Uint8Array(64 * clusterSize).fill(2)
      await work(() => again.write(32 * clusterSize, more, plainWriteIo))
      await again[Symbol.asyncDispose]()

      const { layer: found, image: checked } = await openImage(file)
      const content = new Uint8Array(data.length - clusterSize)
      await found.read(clusterSize, content, plainIo)
      expect(content.every((byte) => byte === 1)).toBe(true)
      expect((await checked.check('none')).corruptions).toBe(0)
      await found[Symbol.asyncDispose]()
    })
  }
})
