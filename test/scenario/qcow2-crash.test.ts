/**
 * The promise of qcow2/write-back.ts: a crash at any point may leak clusters but never corrupts,
 * and what was flushed is there. Long random work runs on storage that loses, tears and reorders
 * what was not flushed; the image is opened as found after each single change.
 */
import { describe, expect, it } from 'vitest'
import { type BlockLayer, plainIo, plainWriteIo, plainZeroIo } from '../../src/block/layer.ts'
import type { Crash } from '../../src/protocol/unstable-memory/crash.ts'
import { UnstableMemory } from '../../src/protocol/unstable-memory/unstable-memory.ts'
import { Album } from '../support/album.ts'
import { CrashModel, sectorSize } from '../support/crash-model.ts'
import { newImage, openImage } from '../support/qcow2.ts'
import { addSnapshot, showSnapshot } from '../support/qcow2-snapshot.ts'
import { Random, runSeed, seedNote } from '../support/random.ts'

const diskSize = 192 * 1024

/** What is on the disk before the work begins, and in the snapshot for ever. */
const baseContent = new Uint8Array(128 * 1024).fill(0xb5)

const aes = { 'encrypt.format': 'aes', 'encrypt.key-secret': 's' }
const luks = {
  'encrypt.format': 'luks',
  'encrypt.key-secret': 's',
  'encrypt.iter-time': 1,
  'encrypt.cipher-alg': 'aes-128',
}

interface Variant {
  readonly title: string
  readonly create: Readonly<Record<string, unknown>>
  /** Bytes of the caches for L2 tables and refcount blocks. */
  readonly cache?: number
  readonly snapshot?: boolean
  /** Requests in flight together, answered in any order. */
  readonly parallel?: boolean
}

const variants: readonly Variant[] = [
  { title: 'clusters of 4 KiB', create: { cluster_size: 4096 } },
  { title: 'clusters of 512 bytes', create: { cluster_size: 512 } },
  {
    title: 'refcount blocks of 64 clusters, whose table grows',
    create: { cluster_size: 512, refcount_bits: 64 },
  },
  { title: 'version 2', create: { cluster_size: 1024, compat: '0.10' } },
  { title: 'lazy refcounts', create: { cluster_size: 1024, lazy_refcounts: true } },
  { title: 'caches of two tables', create: { cluster_size: 512 }, cache: 1024 },
  { title: 'a snapshot', create: { cluster_size: 512 }, snapshot: true },
  { title: 'subclusters', create: { cluster_size: 16384, extended_l2: true } },
  {
    title: 'subclusters and a snapshot',
    create: { cluster_size: 16384, extended_l2: true },
    snapshot: true,
  },
  { title: 'LUKS', create: { cluster_size: 4096, ...luks } },
  { title: 'LUKS and a snapshot', create: { cluster_size: 1024, ...luks }, snapshot: true },
  { title: 'LUKS and subclusters', create: { cluster_size: 16384, extended_l2: true, ...luks } },
  { title: 'AES', create: { cluster_size: 1024, ...aes } },
  { title: 'several requests at once', create: { cluster_size: 1024 }, parallel: true },
]

describe('qcow2 after a crash', () => {
  for (const variant of variants) {
    it(`has what was flushed, and leaks at most: ${variant.title} (${seedNote})`, async () => {
      const random = new Random()
      const before = await preparedImage(variant)
      const storage = new UnstableMemory({
        size: before.length,
        content: before,
        delaySeed: variant.parallel ? runSeed : undefined,
      })
      const model = await work(storage, variant, random)
      for (const crash of allCrashes(storage, variant.create)) {
        const { disk, step } = crash
        const note = `${crash}`
        const { layer, image } = await openImage(disk)
        const { corruptions, checkErrors, messages } = await image.check('none')
        expect([corruptions, checkErrors], `${note}: ${messages.join('; ')}`).toEqual([0, 0])
        await model.expectPossible(layer, step, note)
        await layer[Symbol.asyncDispose]()
        if (variant.snapshot) await expectSnapshot(disk, note)
      }
    })
  }

  it(`has what was flushed, and leaks at most, while its size changes (${seedNote})`, async () => {
    const random = new Random()
    const before = await preparedImage({ title: '', create: { cluster_size: 512 } })
    const storage = new UnstableMemory({ size: before.length, content: before })
    const { layer } = await openImage(storage)
    const kept = 96 * 1024
    const model = new CrashModel(kept, () => storage.steps, baseContent.slice(0, kept))
    // From 4 MiB on the L1 table needs a larger place.
    for (const size of [2, 1, 12, 1, 20, 0.25].map((mebibytes) => mebibytes * 1024 * 1024)) {
      for (let count = 0; count < 4; count++) await request(layer, model, random, 0, kept)
      await layer.write(layer.size / 2, random.bytes(4096), plainWriteIo)
      await layer.write(layer.size - 4096, random.bytes(4096), plainWriteIo)
      await layer.truncate(size, plainIo)
      await flush(layer, model, [Promise.resolve()])
    }
    await layer[Symbol.asyncDispose]()
    for (const crash of allCrashes(storage)) {
      const found = await openImage(crash.disk)
      const { corruptions, messages } = await found.image.check('none')
      expect(corruptions, `${crash}: ${messages.join('; ')}`).toBe(0)
      await model.expectPossible(found.layer, crash.step, `${crash}`)
    }
  })

  for (const create of [
    { cluster_size: 512 },
    { cluster_size: 1024, compat: '0.10' },
    { cluster_size: 512, refcount_bits: 64, lazy_refcounts: true },
    { cluster_size: 16384, extended_l2: true, ...aes },
  ]) {
    const title = JSON.stringify(create)
    it(`has the disk and whole snapshots, and leaks at most: ${title} (${seedNote})`, async () => {
      const random = new Random()
      const before = await preparedImage({ title: '', create })
      const storage = new UnstableMemory({ size: before.length, content: before })
      const { layer } = await openImage(storage)
      const model = new CrashModel(diskSize, () => storage.steps, baseContent)
      const album = new Album(
        () => layer,
        model,
        () => storage.steps,
      )
      while (storage.steps < 400) {
        for (let count = random.below(4); count > 0; count--) {
          await request(layer, model, random, 0, diskSize)
        }
        if (random.chance(0.3)) await flush(layer, model, [Promise.resolve()])
        await album.change(random)
      }
      await layer[Symbol.asyncDispose]()
      for (const crash of allCrashes(storage, create)) {
        const note = `${crash}`
        const found = await openImage(crash.disk)
        const { corruptions, checkErrors, messages } = await found.image.check('none')
        expect([corruptions, checkErrors], `${note}: ${messages.join('; ')}`).toEqual([0, 0])
        await model.expectPossible(found.layer, crash.step, note)
        await found.layer[Symbol.asyncDispose]()
        await album.expectWhole(crash.disk, crash.step, note)
      }
    })
  }

  it(`has snapshots whole or not at all when writes and flushes fail (${seedNote})`, async () => {
    const random = new Random()
    const storage = new UnstableMemory({ size: 0 })
    await newImage({ size: diskSize, cluster_size: 512 }, storage)
    const { layer } = await openImage(storage)
    const model = new CrashModel(diskSize, () => storage.steps)
    const album = new Album(
      () => layer,
      model,
      () => storage.steps,
    )
    let failures = 0
    for (let round = 0; round < 80; round++) {
      await request(layer, model, random, 0, diskSize)
      storage.faults.inject({
        on: random.pick(['write', 'flush', 'truncate'] as const),
        nth: 1 + random.below(12),
        code: random.pick(['IO', 'NO_SPACE'] as const),
        arrives: random.pick([0, 512, 1000]),
      })
      if (!(await succeeds(() => album.change(random)))) failures++
      storage.faults.clear()
      await model.expectFinal(layer, `round ${round}`)
    }
    expect(failures).toBeGreaterThan(5)
    await layer[Symbol.asyncDispose]()
    const again = await openImage(storage)
    const { corruptions, leaks, messages } = await again.image.check('none')
    expect([corruptions, leaks], messages.join('; ')).toEqual([0, 0])
    await model.expectFinal(again.layer, 'afterwards')
    await again.layer[Symbol.asyncDispose]()
    await album.expectWhole(storage, storage.steps, 'afterwards')
  })

  it(`loses nothing when writes and flushes fail (${seedNote})`, async () => {
    const random = new Random()
    const storage = new UnstableMemory({ size: 0 })
    await newImage({ size: diskSize, cluster_size: 512 }, storage)
    const { layer, image } = await openImage(storage, { l2CacheBytes: 1024 })
    const model = new CrashModel(diskSize, () => storage.steps)
    let failures = 0
    for (let round = 0; round < 120; round++) {
      const [offset, length] = random.range(diskSize, sectorSize, 8192)
      storage.faults.inject({
        on: random.pick(['write', 'flush', 'truncate'] as const),
        nth: 1 + random.below(6),
        code: random.pick(['IO', 'NO_SPACE'] as const),
        arrives: random.pick([0, 512, 1000]),
      })
      const bytes = model.begin(offset, length)
      // What failed is written again, as a guest would.
      while (!(await succeeds(() => layer.write(offset, bytes, plainWriteIo)))) failures++
      while (!(await succeeds(() => layer.flush(plainIo)))) failures++
      storage.faults.clear()
    }
    expect(failures).toBeGreaterThan(5)
    await model.expectFinal(layer, 'while open')
    await layer[Symbol.asyncDispose]()
    expect(image.marked).toBe(false)
    const again = await openImage(storage)
    const { corruptions, leaks, messages } = await again.image.check('none')
    expect([corruptions, leaks], messages.join('; ')).toEqual([0, 0])
    await model.expectFinal(again.layer, 'afterwards')
  })
})

/**
 * Several chances after each change: what goes wrong may show in one of them only. Where looking
 * takes long a part of them has to do.
 */
function* allCrashes(storage: UnstableMemory, create: Variant['create'] = {}): Generator<Crash> {
  const part = process.env.VARVE_LONG ? 1 : (parts[String(create['encrypt.format'])] ?? 1)
  for (let round = 0; round < 2; round++) {
    for (const crash of storage.crashes(runSeed + round)) {
      if ((crash.step + runSeed + round) % part === 0) yield crash
    }
  }
}

/** One of so many. */
const parts: Readonly<Record<string, number>> = { luks: 12, aes: 4 }

/** A new image, with a snapshot of some data if that is wanted; closed and on stable storage. */
async function preparedImage({ create, snapshot }: Variant): Promise<Uint8Array> {
  const file = await newImage({ size: diskSize, ...create })
  const { layer } = await openImage(file)
  await layer.write(0, baseContent, plainWriteIo)
  await layer[Symbol.asyncDispose]()
  if (snapshot) await addSnapshot(file)
  const bytes = new Uint8Array(file.size)
  await file.read(0, bytes, plainIo)
  return bytes
}

async function expectSnapshot(disk: BlockLayer, note: string): Promise<void> {
  await showSnapshot(disk)
  const { layer } = await openImage(disk, { readOnly: true })
  const bytes = new Uint8Array(baseContent.length)
  await layer.read(0, bytes, plainIo)
  expect(Buffer.compare(bytes, baseContent), `${note}: the snapshot's disk`).toBe(0)
}

/** Random requests until the storage has seen some hundred changes. */
async function work(
  storage: UnstableMemory,
  variant: Variant,
  random: Random,
): Promise<CrashModel> {
  const caches = { l2CacheBytes: variant.cache, refcountCacheBytes: variant.cache }
  const { layer } = await openImage(storage, caches)
  const model = new CrashModel(diskSize, () => storage.steps, baseContent)
  while (storage.steps < 150) {
    const atOnce = variant.parallel ? 6 : 1
    const lane = diskSize / atOnce
    const requests = Array.from({ length: atOnce }, (_, index) =>
      request(layer, model, random, index * lane, lane),
    )
    if (variant.parallel && random.chance(0.3)) requests.push(flush(layer, model, []))
    await Promise.all(requests)
    if (random.chance(0.2)) await flush(layer, model, requests)
  }
  await layer[Symbol.asyncDispose]()
  return model
}

async function request(
  layer: BlockLayer,
  model: CrashModel,
  random: Random,
  start: number,
  size: number,
): Promise<void> {
  const [at, length] = random.range(size, sectorSize, 12 * 1024)
  const offset = start + at
  const choice = random.next()
  if (choice < 0.65) {
    await layer.write(offset, model.begin(offset, length), plainWriteIo)
  } else if (choice < 0.8) {
    model.begin(offset, length, true)
    const io = { ...plainZeroIo, mayUnmap: random.chance(0.5) }
    await layer.writeZeroes(offset, length, io)
  } else if (choice < 0.92) {
    const { discardAlignment } = layer.limits
    const [from, part] = random.range(size, discardAlignment, 16 * 1024)
    model.begin(start + from, part, true)
    await layer.discard(start + from, part, plainIo)
  } else if (layer.compressed && !encrypted(layer)) {
    const { unit } = layer.compressed
    const [from] = random.range(size, unit, unit)
    await layer.compressed.write(start + from, model.begin(start + from, unit), plainWriteIo)
  }
}

function encrypted({ image }: BlockLayer): boolean {
  return image?.encrypted === true
}

async function flush(layer: BlockLayer, model: CrashModel, before: Promise<void>[]): Promise<void> {
  await Promise.all(before)
  const begun = model.beginFlush()
  await layer.flush(plainIo)
  if (before.length > 0) model.flushed(begun)
}

async function succeeds(work: () => void | Promise<void>): Promise<boolean> {
  try {
    await work()
    return true
  } catch (error) {
    expect(error).toMatchObject({ name: 'BlockError' })
    return false
  }
}
