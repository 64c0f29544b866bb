/**
 * Broken qcow2 images: bits flipped, fields set to extreme values, files cut off, from a corpus of
 * small images of every kind. Whatever happens ends soon, in an answer or in a `BlockError` with a
 * code, and without reading or keeping more than the named limits allow.
 */
import { describe, expect, it } from 'vitest'
import { type BlockLayer, plainIo, plainWriteIo, plainZeroIo } from '../../src/block/layer.ts'
import { BlockError } from '../../src/errors.ts'
import { headerV3 } from '../../src/format/qcow2/header.ts'
import { MemoryLayer } from '../../src/protocol/memory.ts'
import { newImage, openImage } from '../support/qcow2.ts'
import { addSnapshot } from '../support/qcow2-snapshot.ts'
import { Random, runSeed, seedNote } from '../support/random.ts'
import { repair } from '../support/repaired.ts'
import { Watched } from '../support/watched.ts'

const rounds = 250
const diskSize = 96 * 1024

const corpus: readonly Readonly<Record<string, unknown>>[] = [
  { cluster_size: 4096 },
  { cluster_size: 512, refcount_bits: 1 },
  { cluster_size: 512, compat: '0.10' },
  { cluster_size: 1024, refcount_bits: 64, lazy_refcounts: true },
  { cluster_size: 2048, compression_type: 'zstd', backing_file: 'base', backing_fmt: 'raw' },
  { cluster_size: 16_384, extended_l2: true },
  { cluster_size: 4096, data_file: 'data' },
  { cluster_size: 16_384, data_file: 'data', data_file_raw: true, extended_l2: true },
]

describe('a broken qcow2 image', () => {
  for (const [index, options] of corpus.entries()) {
    const title = JSON.stringify(options)
    it(`answers or is refused with a code: ${title} (${seedNote})`, async () => {
      const random = new Random(runSeed + index)
      const sound = await seedImage(options, random, index % 2 === 1)
      const seen = new Set<string>()
      for (let round = 0; round < rounds; round++) {
        const note = `round ${round}`
        const broken = damage(sound, random)
        await attempt(seen, note, () => readAll(new Watched(broken)))
        await attempt(seen, note, () => writeSome(new Watched(broken), random))
        await attempt(seen, note, () => repair(new Watched(broken)))
        await attempt(seen, note, () => changeSnapshots(new Watched(broken.slice()), random))
      }
      // If nothing was ever refused, the damage was none.
      expect(seen.has('CORRUPT_IMAGE')).toBe(true)
      expect(seen.has('fine')).toBe(true)
    })
  }

  it('that claims petabytes is refused before memory is taken', async () => {
    const sound = await seedImage({ cluster_size: 4096 }, new Random(1), false)
    const fields = Object.entries(headerV3.offsets)
    for (const [name, at] of fields) {
      for (const value of extremes) {
        const broken = sound.slice()
        const view = new DataView(broken.buffer)
        const narrow = !/Offset$|^size$|Features$/.test(name)
        if (narrow) view.setUint32(at, Number(value & 0xffffffffn))
        else view.setBigUint64(at, value)
        await attempt(new Set(), `${name}=${value}`, () => readAll(new Watched(broken)))
      }
    }
  })

  it('repaired, is as good as new where only counts and flags were wrong', async () => {
    const random = new Random()
    for (let round = 0; round < 40; round++) {
      const file = await newImage({ size: diskSize, cluster_size: 512 })
      const { layer, image } = await openImage(file)
      const content = random.bytes(diskSize)
      await layer.write(0, content, plainWriteIo)
      const table = image.refcounts.table.offset
      const block = image.refcounts.blockOffset(0)
      await layer[Symbol.asyncDispose]()
      const place = random.pick([table, block]) + random.below(256)
      await file.write(place, Uint8Array.of(random.below(256)), plainWriteIo)
      const broken = await openImage(file, { check: true })
      await broken.image.check('all')
      expect(await broken.image.check('none')).toMatchObject({ corruptions: 0, leaks: 0 })
      const found = new Uint8Array(diskSize)
      await broken.layer.read(0, found, plainIo)
      expect(Buffer.compare(found, content)).toBe(0)
      await broken.layer[Symbol.asyncDispose]()
    }
  })
})

const extremes = [
  0n,
  1n,
  511n,
  4097n,
  2n ** 31n,
  2n ** 32n - 1n,
  2n ** 53n - 4096n,
  2n ** 62n,
  2n ** 64n - 1n,
]

async function seedImage(
  options: Readonly<Record<string, unknown>>,
  random: Random,
  snapshot: boolean,
): Promise<Uint8Array> {
  const data = options.data_file === undefined ? undefined : new MemoryLayer({ size: 0 })
  const file = await newImage({ size: diskSize, ...options }, undefined, data)
  const { layer } = await openImage(file, {}, undefined, data)
  await layer.write(0, random.bytes(20_480), plainWriteIo)
  await layer.writeZeroes(8192, 8192, plainZeroIo)
  const unit = new Uint8Array(layer.compressed!.unit).fill(7)
  if (!data) await layer.compressed!.write(65_536, unit, plainWriteIo)
  await layer[Symbol.asyncDispose]()
  if (snapshot && options.refcount_bits !== 1 && !data) await addSnapshot(file)
  const bytes = new Uint8Array(file.size)
  await file.read(0, bytes, plainIo)
  return bytes
}

/** Flips bits, sets fields, or cuts off; mostly where the tables are. */
function damage(sound: Uint8Array, random: Random): Uint8Array {
  if (random.chance(0.05)) return sound.slice(0, random.below(sound.length))
  const broken = sound.slice()
  const view = new DataView(broken.buffer)
  for (let count = 1 + random.below(3); count > 0; count--) {
    const inHeader = random.chance(0.4)
    const at = inHeader ? random.below(120) : placeOfTable(view, random)
    if (random.chance(0.5)) broken[at] ^= 1 << random.below(8)
    else if (at + 8 <= broken.length) view.setBigUint64(at, random.pick(extremes))
  }
  return broken
}

/** Anywhere, or near the beginning of what the first L1 table of a sound image leads to. */
function placeOfTable(view: DataView, random: Random): number {
  const anywhere = 8 * random.below(view.byteLength / 8)
  if (random.chance(0.5)) return anywhere
  const l1 = Number(view.getBigUint64(headerV3.offsets.l1TableOffset))
  const l2 = l1 + 8 <= view.byteLength ? view.getUint32(l1 + 4) : 0
  const snapshots = Number(view.getBigUint64(headerV3.offsets.snapshotsOffset))
  const table = random.chance(0.3) ? snapshots : random.chance(0.2) ? l1 : l2
  const at = table + 8 * random.below(24)
  return at + 8 <= view.byteLength ? at : anywhere
}

async function attempt(seen: Set<string>, note: string, work: () => Promise<void>): Promise<void> {
  try {
    await work()
    seen.add('fine')
  } catch (error) {
    if (!(error instanceof BlockError))
      throw new Error(`${note}: not a BlockError`, { cause: error })
    seen.add(error.code)
  }
}

async function readAll(file: BlockLayer): Promise<void> {
  const { layer, image } = await openImage(file, { readOnly: true })
  try {
    const length = Math.min(layer.size, 2 * diskSize)
    await layer.read(0, new Uint8Array(length), plainIo)
    for (let at = 0, runs = 0; at < layer.size && runs < 1000; runs++) {
      at += (await layer.extentAt(at, layer.size - at, plainIo)).length
    }
  } finally {
    await image.check('none')
    await layer[Symbol.asyncDispose]()
  }
}

async function writeSome(file: BlockLayer, random: Random): Promise<void> {
  const { layer } = await openImage(file)
  try {
    for (let step = 0; step < 6 && layer.size > 0; step++) {
      const [offset, length] = random.range(Math.min(layer.size, diskSize), 512, 16_384)
      if (random.chance(0.6)) await layer.write(offset, random.bytes(length), plainWriteIo)
      else await layer.discard(offset, length, plainIo)
    }
    await layer.flush(plainIo)
  } finally {
    await layer[Symbol.asyncDispose]()
  }
}

/** Lists and shows all snapshots, takes one more, applies one and deletes one. */
async function changeSnapshots(file: BlockLayer, random: Random): Promise<void> {
  const shown = await openImage(file, { readOnly: true })
  const ids = (await shown.layer.image!.snapshots!()).map(({ id }) => id)
  for (const id of ids) {
    await shown.layer.snapshots!.open(id, plainIo)
    await shown.layer.read(0, new Uint8Array(Math.min(shown.layer.size, diskSize)), plainIo)
    await shown.layer.vmState?.read(random.below(2 ** 20), new Uint8Array(512), plainIo)
  }
  await shown.layer[Symbol.asyncDispose]()
  const { layer } = await openImage(file)
  try {
    const { snapshots, vmState } = layer
    await vmState?.write(random.below(2 ** 20), random.bytes(600), plainWriteIo)
    const { id } = await snapshots!.create({ name: 'new', vmStateSize: 600 }, plainIo)
    await snapshots!.apply(random.pick([...ids, id]), plainIo)
    await snapshots!.delete(random.pick([...ids, id]), plainIo)
  } finally {
    await layer[Symbol.asyncDispose]()
  }
}
