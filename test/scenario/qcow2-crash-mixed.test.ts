/**
 * Snapshots, bitmaps and all kinds of writes in one image, closed and opened again: whenever the
 * power fails the disk has what was flushed, snapshots are whole, a bitmap is in use or as it was
 * stored, and nothing worse than a leak is left.
 */
import { expect, it } from 'vitest'
import { plainIo, plainWriteIo } from '../../src/block/layer.ts'
import { addBitmap, enableBitmap, removeBitmap } from '../../src/graph/bitmap-actions.ts'
import { UnstableMemory } from '../../src/protocol/unstable-memory/unstable-memory.ts'
import { Album } from '../support/album.ts'
import { dirtyText, openSession, type Session } from '../support/bitmaps.ts'
import { CrashModel, sectorSize } from '../support/crash-model.ts'
import { newImage, openImage } from '../support/qcow2.ts'
import { Random, runSeed, seedNote } from '../support/random.ts'

const diskSize = 96 * 1024
const sessions = 4
/** Every so many of the moments are looked at. */
const part = process.env.VARVE_LONG ? 1 : 4

const kinds: readonly Readonly<Record<string, unknown>>[] = [
  { cluster_size: 512 },
  { cluster_size: 1024, lazy_refcounts: true, refcount_bits: 64 },
  { cluster_size: 16_384, extended_l2: true, compression_type: 'zstd' },
  { cluster_size: 2048, 'encrypt.format': 'aes', 'encrypt.key-secret': 's' },
]

for (const kind of kinds) {
  it(`an image of all kinds of data survives a crash: ${JSON.stringify(kind)} (${seedNote})`, async () => {
    const random = new Random()
    const file = await newImage({ size: diskSize, ...kind })
    const content = new Uint8Array(file.size)
    await file.read(0, content, plainIo)
    const storage = new UnstableMemory({ size: content.length, content })
    const model = new CrashModel(diskSize, () => storage.steps)
    const ledger = new Ledger(() => storage.steps)
    let session: Session
    const album = new Album(
      () => session.node.layer,
      model,
      () => storage.steps,
    )
    for (let count = 0; count < sessions; count++) {
      session = await open(storage, kind)
      ledger.opened()
      for (let step = 0; step < 15; step++) await work(session, model, album, random)
      const stored = ledger.closing(session)
      const begun = model.beginFlush()
      await session.close()
      model.flushed(begun)
      stored()
    }
    for (const crash of storage.crashes(runSeed)) {
      if ((crash.step + runSeed) % part !== 0) continue
      const { disk, step } = crash
      const note = `${crash}`
      const { layer, image } = await openImage(disk)
      const { corruptions, checkErrors, messages } = await image.check('none')
      expect([corruptions, checkErrors], `${note}: ${messages.join('; ')}`).toEqual([0, 0])
      await model.expectPossible(layer, step, note)
      await layer[Symbol.asyncDispose]()
      await album.expectWhole(disk, step, note)
      const again = await open(disk, kind, true)
      ledger.expectRight(again, step, note)
      await again.close()
    }
  })
}

async function open(
  file: Parameters<typeof openSession>[0],
  kind: Readonly<Record<string, unknown>>,
  readOnly = false,
): Promise<Session> {
  const encrypt = kind['encrypt.format'] ? { encrypt: { 'key-secret': 's' } } : {}
  return await openSession(file, { ...encrypt, 'read-only': readOnly, discard: 'unmap' })
}

async function work(
  { node, guest }: Session,
  model: CrashModel,
  album: Album,
  random: Random,
): Promise<void> {
  const choice = random.next()
  const [offset, length] = random.range(diskSize, sectorSize, 8 * 1024)
  const names = [...node.bitmaps].map(({ name }) => name)
  if (choice < 0.35) await guest.write(offset, model.begin(offset, length))
  else if (choice < 0.45) {
    model.begin(offset, length, true)
    await guest.writeZeroes(offset, length, { mayUnmap: random.chance(0.5) })
  } else if (choice < 0.53) {
    // Of others only the whole clusters in them would go.
    const [from, whole] = random.range(diskSize, guest.limits.discardAlignment, 32 * 1024)
    model.begin(from, whole, true)
    await guest.discard(from, whole)
  } else if (choice < 0.6 && !node.layer.image?.encrypted) {
    const { unit } = guest.compressed!
    const [from] = random.range(diskSize, unit, unit)
    const bytes = model.begin(from, Math.min(unit, diskSize - from))
    await guest.compressed!.write(from, bytes, plainWriteIo)
  } else if (choice < 0.68) {
    const begun = model.beginFlush()
    await guest.flush()
    model.flushed(begun)
  } else if (choice < 0.82) {
    await album.change(random, names.length === 0)
  } else if (names.length === 0 || choice < 0.92) {
    const name = `b${random.below(4)}`
    if (names.includes(name)) return
    addBitmap(node, { name, granularity: 512 * 2 ** random.below(4), persistent: true })
  } else if (choice < 0.97) (await removeBitmap(node, random.pick(names))).commit()
  else enableBitmap(node, random.pick(names), random.chance(0.5))
}

interface Entry {
  readonly name: string
  readonly text: string
  /** Changes of the storage from which on it may be found so, has to be, and may no more. */
  readonly from: number
  sure: number
  until: number
}

/** What was stored of bitmaps, and when. */
class Ledger {
  readonly #steps: () => number
  readonly #entries: Entry[] = []

  constructor(steps: () => number) {
    this.#steps = steps
  }

  /** Whoever opens the image marks them as in use before anything else. */
  opened(): void {
    for (const entry of this.#entries) entry.until = Math.min(entry.until, this.#steps())
  }

  /** They are about to be stored. Call the answer when they are. */
  closing({ node }: Session): () => void {
    const from = this.#steps()
    const entries = [...node.bitmaps].map((bitmap) => ({
      name: bitmap.name,
      text: describeBitmap(bitmap),
      from,
      sure: Number.POSITIVE_INFINITY,
      until: Number.POSITIVE_INFINITY,
    }))
    this.#entries.push(...entries)
    return () => {
      for (const entry of entries) entry.sure = this.#steps()
    }
  }

  expectRight({ node }: Session, step: number, note: string): void {
    for (const bitmap of node.bitmaps) {
      if (bitmap.inconsistent) continue
      const possible = this.#entries.filter(
        ({ name, from, until }) => name === bitmap.name && from <= step && step <= until,
      )
      const texts = possible.map(({ text }) => text)
      expect(texts, `${note}: ${bitmap.name}`).toContain(describeBitmap(bitmap))
    }
    const last = this.#entries.filter(
      ({ sure, until }) => sure <= step && until === Number.POSITIVE_INFINITY,
    )
    for (const { name } of last) {
      expect(node.bitmaps.get(name)?.inconsistent, `${note}: ${name}`).toBe(false)
    }
  }
}

function describeBitmap(bitmap: Parameters<typeof dirtyText>[0]): string {
  return `${bitmap.granularity} ${bitmap.enabled} ${dirtyText(bitmap)}`
}
