/**
 * Every field of the tables that a hostile qcow2 image brings along, one at a time, set to extreme
 * values: snapshot tables, L2 entries with subclusters, header extensions, and LUKS headers. It is
 * read, checked, written and repaired; each ends soon, well or in a `BlockError` that has a code and,
 * for a corrupt image, says where. Nothing is read that the file does not have.
 */
import { describe, expect, it } from 'vitest'
import { type BlockLayer, plainIo, plainWriteIo, plainZeroIo } from '../../src/block/layer.ts'
import { BlockError } from '../../src/errors.ts'
import { openEncryption } from '../../src/format/qcow2/encryption/encryption.ts'
import { headerV3 } from '../../src/format/qcow2/header.ts'
import { Qcow2Image } from '../../src/format/qcow2/image.ts'
import { MemoryLayer } from '../../src/protocol/memory.ts'
import { openContext } from '../support/context.ts'
import { newImage, openImage, testSecrets, testSettings } from '../support/qcow2.ts'
import { repair } from '../support/repaired.ts'
import { Watched } from '../support/watched.ts'

const diskSize = 128 * 1024

const extremes = [
  0n,
  1n,
  2n,
  255n,
  512n,
  0x8000n,
  2n ** 31n,
  2n ** 32n - 1n,
  2n ** 32n,
  2n ** 53n,
  2n ** 56n - 512n,
  2n ** 62n,
  2n ** 63n + 512n,
  2n ** 64n - 1n,
]

/** A part of the file of which each field is tried. */
interface Place {
  readonly offset: number
  readonly length: number
  /** Bytes of a field. */
  readonly step: 4 | 8
}

describe('a hostile qcow2 image', () => {
  it('with any snapshot table answers or is refused', async () => {
    const file = await newImage({ size: diskSize, cluster_size: 1024 })
    const { layer } = await openImage(file)
    await layer.write(0, new Uint8Array(9000).fill(1), plainWriteIo)
    await layer.vmState!.write(0, new Uint8Array(600).fill(2), plainWriteIo)
    await layer.snapshots!.create({ name: 'one', vmStateSize: 600 }, plainIo)
    await layer.snapshots!.create({ name: 'two' }, plainIo)
    await layer[Symbol.asyncDispose]()
    const sound = await contentOf(file)
    const offset = fieldOf(sound, 'snapshotsOffset')
    const outcomes = await tryAll(sound, { offset, length: 160, step: 4 })
    expect([...outcomes]).toEqual(expect.arrayContaining(['fine', 'CORRUPT_IMAGE']))
  })

  it('with any L2 entry of subclusters answers or is refused', async () => {
    const file = await newImage({ size: 2 * diskSize, cluster_size: 16_384, extended_l2: true })
    const { layer } = await openImage(file)
    await layer.write(0, new Uint8Array(20_000).fill(1), plainWriteIo)
    await layer.writeZeroes(4096, 2048, plainZeroIo)
    await layer.compressed!.write(65_536, new Uint8Array(16_384).fill(3), plainWriteIo)
    await layer[Symbol.asyncDispose]()
    const sound = await contentOf(file)
    const l1 = new DataView(sound.buffer).getBigUint64(fieldOf(sound, 'l1TableOffset'))
    const offset = Number(l1 % 2n ** 56n)
    const outcomes = await tryAll(sound, { offset, length: 96, step: 8 })
    expect([...outcomes]).toEqual(expect.arrayContaining(['fine', 'CORRUPT_IMAGE']))
  })

  it('with any header extension answers or is refused', async () => {
    const options = { backing_file: 'base', backing_fmt: 'raw', cluster_size: 4096 }
    const file = await newImage({ size: diskSize, ...options, ...luks })
    const sound = await contentOf(file)
    const outcomes = await tryAll(sound, { offset: 112, length: 96, step: 4 }, openWithoutKey)
    expect([...outcomes]).toEqual(expect.arrayContaining(['fine', 'CORRUPT_IMAGE']))
  })

  it('with any LUKS header answers or is refused', async () => {
    const sound = await contentOf(await newImage({ size: diskSize, cluster_size: 4096, ...luks }))
    // The extension's data: where the header is.
    const offset = Number(new DataView(sound.buffer).getBigUint64(120))
    expect(Buffer.from(sound).toString('latin1', offset, offset + 4)).toBe('LUKS')
    // Of text the first word; test/fuzz/luks.test.ts goes over all of it.
    const slots = [0, 7].map((slot) => 208 + slot * 48)
    const slotFields = slots.flatMap((slot) => [slot, slot + 4, slot + 40, slot + 44])
    const outcomes = new Set<string>()
    for (const field of [0, 4, 8, 40, 72, 104, 108, 112, 164, 168, ...slotFields]) {
      const place = { offset: offset + field, length: 4, step: 4 } as const
      for (const outcome of await tryAll(sound, place, openWithoutKey)) outcomes.add(outcome)
      // Counts of iterations would only take their time.
      if (field === 164 || slots.includes(field - 4)) continue
      for (const outcome of await tryAll(sound, place, readSome)) outcomes.add(outcome)
    }
    expect([...outcomes]).toEqual(expect.arrayContaining(['fine', 'CORRUPT_IMAGE']))
  })
})

const luks = {
  'encrypt.format': 'luks',
  'encrypt.key-secret': 's',
  'encrypt.iter-time': 1,
  'encrypt.cipher-alg': 'aes-128',
}

type Attempt = (file: BlockLayer) => Promise<void>

async function tryAll(
  sound: Uint8Array,
  { offset, length, step }: Place,
  ...attempts: readonly Attempt[]
): Promise<ReadonlySet<string>> {
  const outcomes = new Set<string>()
  for (let at = offset; at < offset + length; at += step) {
    for (const value of extremes) {
      if (step === 4 && value >= 2n ** 32n) continue
      const broken = sound.slice()
      const view = new DataView(broken.buffer)
      if (step === 4) view.setUint32(at, Number(value))
      else view.setBigUint64(at, value)
      const note = `${at - offset} of ${offset}: 0x${value.toString(16)}`
      for (const attempt of attempts.length > 0 ? attempts : [readSome, writeSome, repair]) {
        outcomes.add(
          await outcomeOf(note, () =>
            attempt(new Watched(attempts.length > 0 ? broken : broken.slice())),
          ),
        )
      }
    }
  }
  return outcomes
}

async function outcomeOf(note: string, work: () => Promise<void>): Promise<string> {
  try {
    await work()
    return 'fine'
  } catch (error) {
    if (!(error instanceof BlockError)) throw new Error(note, { cause: error })
    const { code, offset, message } = error
    if (code === 'CORRUPT_IMAGE') expect(offset, `${note}: ${message}`).toBeDefined()
    return code
  }
}

async function readSome(file: BlockLayer): Promise<void> {
  const { layer } = await openImage(file, { readOnly: true }, MemoryLayer.of(new Uint8Array(512)))
  try {
    await layer.read(0, new Uint8Array(Math.min(layer.size, 2 * diskSize)), plainIo)
    for (const { id } of await layer.image!.snapshots!()) {
      const shown = await openImage(file, { readOnly: true })
      await shown.layer.snapshots!.open(id, plainIo)
      await shown.layer.read(0, new Uint8Array(Math.min(shown.layer.size, diskSize)), plainIo)
      await shown.layer.vmState!.read(0, new Uint8Array(600), plainIo)
    }
  } finally {
    await layer[Symbol.asyncDispose]()
  }
}

async function writeSome(file: BlockLayer): Promise<void> {
  const { layer } = await openImage(file)
  try {
    await layer.write(0, new Uint8Array(Math.min(layer.size, 40_000)).fill(9), plainWriteIo)
    await layer.discard(0, Math.min(layer.size, 16_384), plainIo)
    const [first] = await layer.image!.snapshots!()
    const { id } = await layer.snapshots!.create({ name: 'new' }, plainIo)
    if (first) await layer.snapshots!.apply(first.id, plainIo)
    if (first) await layer.snapshots!.delete(first.id, plainIo)
    await layer.snapshots!.delete(id, plainIo)
  } finally {
    await layer[Symbol.asyncDispose]()
  }
}

/** As `info` does, and as `check` does. */
async function openWithoutKey(file: BlockLayer): Promise<void> {
  const image = await Qcow2Image.open(file, { ...testSettings, check: true })
  try {
    await openEncryption(image, {}, { ...openContext({ noIo: true }), secrets: testSecrets })
    image.encryption?.facts()
  } finally {
    await image.check('none')
    await image.close()
  }
}

async function contentOf(layer: BlockLayer): Promise<Uint8Array> {
  const bytes = new Uint8Array(layer.size)
  await layer.read(0, bytes, plainIo)
  return bytes
}

function fieldOf(bytes: Uint8Array, name: 'snapshotsOffset' | 'l1TableOffset'): number {
  return Number(new DataView(bytes.buffer).getBigUint64(headerV3.offsets[name]))
}
