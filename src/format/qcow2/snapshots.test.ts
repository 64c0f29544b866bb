import { describe, expect, it } from 'vitest'
import { newImage, openImage } from '../../../test/support/qcow2.ts'
import { Random, seedNote } from '../../../test/support/random.ts'
import type { NewSnapshot } from '../../block/abilities.ts'
import { type BlockLayer, plainIo, plainWriteIo, plainZeroIo } from '../../block/layer.ts'
import type { Qcow2Image } from './image.ts'

const MiB = 1024 * 1024

async function contentOf(layer: BlockLayer): Promise<Buffer> {
  const bytes = Buffer.alloc(layer.size)
  await layer.read(0, bytes, plainIo)
  return bytes
}

/** No errors and no leaks, in the file as it is. */
async function expectClean(image: Qcow2Image, note = ''): Promise<void> {
  const { corruptions, leaks, checkErrors, messages } = await image.check('none')
  expect([corruptions, leaks, checkErrors], `${note}: ${messages.join('; ')}`).toEqual([0, 0, 0])
}

/** Narrow refcounts may have no room, since compressed clusters share theirs: undefined then. */
async function unlessFull<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work
  } catch (error) {
    expect(error).toMatchObject({ errno: 'EINVAL', message: expect.stringMatching('references') })
    return undefined
  }
}

const create = (layer: BlockLayer, snapshot: NewSnapshot) =>
  layer.snapshots!.create(snapshot, plainIo)
const list = async (image: BlockLayer) => (await image.image?.snapshots?.()) ?? []

describe('internal snapshots', () => {
  it('bring back the disk, whatever was written, zeroed or discarded since', async () => {
    const file = await newImage({ size: 4 * MiB })
    const { layer, image } = await openImage(file)
    await layer.write(0, Buffer.alloc(MiB, 1), plainWriteIo)
    await layer.compressed!.write(2 * MiB, Buffer.alloc(65536, 2), plainWriteIo)
    const before = await contentOf(layer)
    await create(layer, { name: 'one' })
    await expectClean(image, 'created')
    await layer.write(512 * 1024, Buffer.alloc(MiB, 3), plainWriteIo)
    await layer.writeZeroes(0, 128 * 1024, { ...plainZeroIo, mayUnmap: true })
    await layer.discard(2 * MiB, 65536, plainIo)
    await expectClean(image, 'written')
    await layer.snapshots!.apply('one', plainIo)
    expect(Buffer.compare(await contentOf(layer), before)).toBe(0)
    await expectClean(image, 'applied')
    await layer.snapshots!.delete('1', plainIo)
    expect(Buffer.compare(await contentOf(layer), before)).toBe(0)
    await expectClean(image, 'deleted')
  })

  it('are numbered behind the highest number, and found by id before name', async () => {
    const { layer } = await openImage(await newImage({ size: MiB }))
    await create(layer, { name: 'a', id: '7' })
    expect(await create(layer, { name: '7' })).toMatchObject({ id: '8', name: '7' })
    await expect(create(layer, { name: 'b', id: '8' })).rejects.toMatchObject({ errno: 'EEXIST' })
    await layer.snapshots!.delete('7', plainIo)
    await expect(layer.snapshots!.delete('a', plainIo)).rejects.toMatchObject({ errno: 'ENOENT' })
  })

  it('wait for requests under way, and those wait for them', async () => {
    const file = await newImage({ size: MiB, cluster_size: 4096 })
    const { layer, image } = await openImage(file)
    const lanes = 8
    const lane = MiB / lanes
    const numbers = new Uint32Array(lanes)
    let ids: string[] = []
    for (let round = 0; round < 15; round++) {
      const writers = Array.from({ length: lanes }, async (_, index) => {
        for (let step = 0; step < 4; step++) {
          const number = ++numbers[index] % 256
          await layer.write(index * lane, Buffer.alloc(lane, number), plainWriteIo)
        }
      })
      const taken = create(layer, { name: `round ${round}` })
      const dropped = ids.length > 3 ? layer.snapshots!.delete(ids[0], plainIo) : undefined
      if (dropped) ids = ids.slice(1)
      await Promise.all([...writers, dropped])
      ids.push((await taken).id)
      const disk = await contentOf(layer)
      for (let index = 0; index < lanes; index++) {
        const shown = disk.subarray(index * lane, (index + 1) * lane)
        expect(shown.equals(Buffer.alloc(lane, numbers[index] % 256))).toBe(true)
      }
      await expectClean(image, `round ${round}`)
    }
    // Every lane of a snapshot is of one write: none was taken in the middle of a request.
    await layer[Symbol.asyncDispose]()
    for (const id of ids) {
      const shown = await openImage(file, { readOnly: true })
      await shown.layer.snapshots!.open(id, plainIo)
      const disk = await contentOf(shown.layer)
      for (let index = 0; index < lanes; index++) {
        const part = disk.subarray(index * lane, (index + 1) * lane)
        expect(part.equals(Buffer.alloc(lane, part[0]))).toBe(true)
      }
    }
  })

  it('are kept to the byte while others come and go, unknown extra data included', async () => {
    const file = await newImage({ size: MiB })
    const { layer } = await openImage(file)
    const { id } = await create(layer, { name: 'old' })
    await layer[Symbol.asyncDispose]()
    // As a later version of the format might write it: 16 bytes more, in front of the id.
    const head = new Uint8Array(104)
    await file.read(0, head, plainIo)
    const place = Number(new DataView(head.buffer).getBigUint64(64))
    const entry = Buffer.alloc(40 + 24 + 16 + 4)
    await file.read(place, entry.subarray(0, 64), plainIo)
    entry.writeUInt32BE(24 + 16, 36)
    entry.fill(0xee, 64, 80)
    entry.write(`${id}old`, 80)
    await file.write(place, entry, plainWriteIo)

    const again = await openImage(file)
    await create(again.layer, { name: 'new' })
    await create(again.layer, { name: 'newer' })
    await again.layer.snapshots!.delete('new', plainIo)
    const table = again.image.header.current.snapshotsOffset
    const kept = Buffer.alloc(entry.length)
    await file.read(table, kept, plainIo)
    expect(kept.equals(entry)).toBe(true)
    expect((await list(again.layer)).map(({ name }) => name)).toEqual(['old', 'newer'])
    await again.layer.snapshots!.apply('old', plainIo)
    await expectClean(again.image)
  })

  it('are repaired where their table is damaged, and taken out where they are lost', async () => {
    const file = await newImage({ size: MiB })
    const { layer, image } = await openImage(file)
    await layer.write(0, Buffer.alloc(65536, 1), plainWriteIo)
    for (const name of ['one', 'two', 'three']) await create(layer, { name })
    const table = image.header.current.snapshotsOffset
    await layer[Symbol.asyncDispose]()
    const sound = await contentOf(file)
    const entryLength = 40 + 24 + 1 + 3 + 4
    // Of the second entry: the field, what is put there, and who is left.
    const damages: [number, number, string[]][] = [
      [36, 0xffffffff, ['one']],
      [8, 0xffffffff, ['one', 'three']],
      [4, 0x1234, ['one', 'three']],
      [4, 0x7fff0000, ['one', 'three']],
      [16, 0xffffffff, ['one', 'two', 'three']],
    ]
    for (const [field, value, left] of damages) {
      const broken = Buffer.from(sound)
      broken.writeUInt32BE(value, table + entryLength + field)
      const copy = await newImage({ size: MiB })
      await copy.truncate(broken.length, plainIo)
      await copy.write(0, broken, plainWriteIo)
      const repaired = await openImage(copy, { check: true })
      await repaired.image.check('all')
      await expectClean(repaired.image, `${field}=${value}`)
      await repaired.layer[Symbol.asyncDispose]()
      const again = await openImage(copy)
      expect((await list(again.layer)).map(({ name }) => name)).toEqual(left)
      for (const name of left) await again.layer.snapshots!.delete(name, plainIo)
      await expectClean(again.image, `${field}=${value}, deleted`)
      await again.layer[Symbol.asyncDispose]()
    }
  })

  it('take the size of the disk back with them', async () => {
    const file = await newImage({ size: MiB, cluster_size: 512 })
    const { layer, image } = await openImage(file)
    await layer.write(0, Buffer.alloc(MiB, 1), plainWriteIo)
    await create(layer, { name: 'small' })
    await layer.truncate(8 * MiB, plainIo)
    await layer.write(7 * MiB, Buffer.alloc(512, 2), plainWriteIo)
    await create(layer, { name: 'large' })
    await layer.snapshots!.apply('small', plainIo)
    expect(layer.size).toBe(MiB)
    await expectClean(image)
    await layer.snapshots!.apply('large', plainIo)
    expect(layer.size).toBe(8 * MiB)
    expect((await contentOf(layer))[7 * MiB]).toBe(2)
    await expectClean(image)
  })

  it('are refused before anything changes when refcounts would overflow', async () => {
    for (const refcount_bits of [1, 2]) {
      const file = await newImage({ size: MiB, refcount_bits })
      const { layer, image } = await openImage(file)
      await layer.write(0, Buffer.alloc(1024, 1), plainWriteIo)
      for (let count = 2; count < 2 ** refcount_bits; count++) await create(layer, { name: 'x' })
      await layer.flush(plainIo)
      const before = await contentOf(file)
      await expect(create(layer, { name: 'y' })).rejects.toMatchObject({ errno: 'EINVAL' })
      expect(Buffer.compare(await contentOf(file), before)).toBe(0)
      await expectClean(image)
    }
  })

  it('count compressed clusters that share their place, each for itself', async () => {
    const file = await newImage({ size: MiB, cluster_size: 4096, refcount_bits: 2 })
    const { layer, image } = await openImage(file)
    for (const at of [0, 4096]) {
      await layer.compressed!.write(at, Buffer.alloc(4096, 1), plainWriteIo)
    }
    await layer.flush(plainIo)
    const before = await contentOf(file)
    // Two references as it is, four with the snapshot's: more than two bits count to.
    await expect(create(layer, { name: 'x' })).rejects.toMatchObject({
      errno: 'EINVAL',
      message: expect.stringMatching('4 references'),
    })
    expect(Buffer.compare(await contentOf(file), before)).toBe(0)
    await expectClean(image)
    await layer.discard(4096, 4096, plainIo)
    await create(layer, { name: 'x' })
    await expectClean(image)
  })

  it('carry the state of a machine, which the disk has no more', async () => {
    const file = await newImage({ size: MiB })
    const { layer, image } = await openImage(file)
    const state = Buffer.alloc(300_000, 0x5a)
    await layer.vmState!.write(0, state, plainWriteIo)
    const vmStateSize = state.length
    const facts = await create(layer, {
      name: 'vm',
      vmStateSize,
      vmClock: { seconds: 2 ** 32, nanoseconds: 5 },
      icount: 9,
    })
    expect(await list(layer)).toMatchObject([{ ...facts, icount: 9 }])
    await expectClean(image)
    const read = async (from: BlockLayer) => {
      const bytes = Buffer.alloc(state.length)
      await from.vmState!.read(0, bytes, plainIo)
      return bytes
    }
    expect((await read(layer)).every((byte) => byte === 0)).toBe(true)
    await layer[Symbol.asyncDispose]()

    const shown = await openImage(file, { readOnly: true })
    await shown.layer.snapshots!.open('vm', plainIo)
    expect(Buffer.compare(await read(shown.layer), state)).toBe(0)
    await shown.layer[Symbol.asyncDispose]()
    const again = await openImage(file)
    await again.layer.snapshots!.apply('vm', plainIo)
    expect(Buffer.compare(await read(again.layer), state)).toBe(0)
    await expectClean(again.image)
  })

  it('show themselves in an image that is read only', async () => {
    const file = await newImage({ size: MiB })
    const { layer } = await openImage(file)
    await layer.write(0, Buffer.alloc(4096, 1), plainWriteIo)
    await create(layer, { name: 'then' })
    await layer.write(0, Buffer.alloc(4096, 2), plainWriteIo)
    await layer.truncate(2 * MiB, plainIo)
    await expect(layer.snapshots!.open('then', plainIo)).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    })
    await layer[Symbol.asyncDispose]()
    const shown = await openImage(file, { readOnly: true })
    await shown.layer.snapshots!.open('then', plainIo)
    expect(shown.layer.size).toBe(MiB)
    expect((await contentOf(shown.layer))[0]).toBe(1)
  })

  const variants = [
    { cluster_size: 512 },
    { cluster_size: 512, refcount_bits: 64 },
    { cluster_size: 1024, refcount_bits: 4 },
    { cluster_size: 4096, lazy_refcounts: true },
    { cluster_size: 4096, compat: '0.10' },
    { cluster_size: 65536, refcount_bits: 8 },
    { cluster_size: 16384, extended_l2: true },
  ]
  for (const variant of variants) {
    const title = Object.entries(variant).join(' ').replaceAll(',', '=')
    it(`keep every disk through random work: ${title} (${seedNote})`, async () => {
      const random = new Random()
      const file = await newImage({ size: MiB, ...variant })
      const { layer, image } = await openImage(file)
      let disk = Buffer.alloc(MiB)
      const kept = new Map<string, Buffer>()
      for (let step = 0; step < 60; step++) {
        const choice = random.next()
        const [offset, length] = random.range(layer.size, 512, 65536)
        const ids = [...kept.keys()]
        if (choice < 0.5) {
          const bytes = random.bytes(length)
          await layer.write(offset, bytes, plainWriteIo)
          disk.set(bytes, offset)
        } else if (choice < 0.6) {
          await layer.writeZeroes(offset, length, { ...plainZeroIo, mayUnmap: random.chance(0.5) })
          disk.fill(0, offset, offset + length)
        } else if (choice < 0.65 && layer.compressed) {
          const { unit } = layer.compressed
          const at = offset - (offset % unit)
          const bytes = Buffer.alloc(Math.min(unit, layer.size - at), random.below(256))
          await layer.compressed.write(at, bytes, plainWriteIo)
          disk.set(bytes, at)
        } else if (
          choice < 0.7 &&
          (layer.size === MiB || kept.size === 0) &&
          !('compat' in variant)
        ) {
          const size = 512 * (1024 + random.below(4096))
          await layer.truncate(size, plainIo)
          const next = Buffer.alloc(size)
          disk.copy(next)
          disk = next
        } else if (choice < 0.85 && kept.size < 8) {
          const taken = await unlessFull(create(layer, { name: `at ${step}` }))
          if (taken) kept.set(taken.id, Buffer.from(disk))
        } else if (choice < 0.92 && ids.length > 0) {
          const id = random.pick(ids)
          const applied = layer.snapshots!.apply(id, plainIo).then(() => true)
          if (await unlessFull(applied)) disk = Buffer.from(kept.get(id)!)
        } else if (ids.length > 0) {
          const id = random.pick(ids)
          await layer.snapshots!.delete(id, plainIo)
          kept.delete(id)
        }
        expect(Buffer.compare(await contentOf(layer), disk), `step ${step}`).toBe(0)
        if (!('lazy_refcounts' in variant)) await expectClean(image, `step ${step}`)
      }
      await layer[Symbol.asyncDispose]()
      for (const [id, content] of kept) {
        const shown = await openImage(file, { readOnly: true })
        await shown.layer.snapshots!.open(id, plainIo)
        expect(Buffer.compare(await contentOf(shown.layer), content), `snapshot ${id}`).toBe(0)
      }
    })
  }
})
