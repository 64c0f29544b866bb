/**
 * A header that does not lead to its tables any more. A repair finds the L1 table and the snapshot
 * table, writes refcounts anew, and loses nothing; where the L1 table cannot be found it changes
 * nothing, for what it led to would be taken for free.
 */
import { describe, expect, it } from 'vitest'
import { type BlockLayer, plainIo, plainWriteIo } from '../../src/block/layer.ts'
import { headerV3 } from '../../src/format/qcow2/header.ts'
import { MemoryLayer } from '../../src/protocol/memory.ts'
import { newImage, openImage } from '../support/qcow2.ts'
import { Random, seedNote } from '../support/random.ts'

const diskSize = 512 * 1024
const { offsets } = headerV3

const corpus: readonly Readonly<Record<string, unknown>>[] = [
  { cluster_size: 4096 },
  { cluster_size: 512 },
  { cluster_size: 1024, compat: '0.10' },
  { cluster_size: 16_384, extended_l2: true },
  { cluster_size: 2048, refcount_bits: 64 },
]

interface Sample {
  readonly bytes: Buffer
  readonly disk: Buffer
  readonly snapshot: Buffer
}

/** A disk of data and zeroes, and what it was when its snapshot was taken. */
async function sample(options: Readonly<Record<string, unknown>>): Promise<Sample> {
  const random = new Random()
  const file = await newImage({ size: diskSize, ...options })
  const { layer } = await openImage(file)
  const write = async (count: number) => {
    for (let round = 0; round < count; round++) {
      const [offset, length] = random.range(diskSize, 512, 65_536)
      await layer.write(offset, random.bytes(length), plainWriteIo)
    }
    // Clusters of zeroes look like tables.
    await layer.write(65_536, new Uint8Array(65_536), plainWriteIo)
  }
  await write(8)
  const snapshot = await contentOf(layer)
  await layer.snapshots!.create({ name: 'kept' }, plainIo)
  await write(8)
  const disk = await contentOf(layer)
  await layer[Symbol.asyncDispose]()
  return { bytes: await bytesOf(file), disk, snapshot }
}

async function contentOf(layer: {
  read(offset: number, target: Uint8Array, io: typeof plainIo): unknown
}): Promise<Buffer> {
  const content = Buffer.alloc(diskSize)
  await layer.read(0, content, plainIo)
  return content
}

async function bytesOf(file: BlockLayer): Promise<Buffer> {
  const bytes = Buffer.alloc(file.size)
  await file.read(0, bytes, plainIo)
  return bytes
}

type Field = 'refcountTableOffset' | 'l1TableOffset' | 'snapshotsOffset'
const fields: readonly Field[] = ['refcountTableOffset', 'l1TableOffset', 'snapshotsOffset']
const places: Readonly<Record<string, (bytes: Buffer) => bigint>> = {
  'behind the end of the file': (bytes) => BigInt(bytes.length + 2 ** 21),
  'beyond 2^53': () => 2n ** 63n,
  'not aligned': () => 100n,
  'in the header': () => 0n,
}

describe('repair of a header', () => {
  for (const [where, place] of Object.entries(places)) {
    for (const lost of [...fields.map((field) => [field]), fields.slice(1)]) {
      it(`whose ${lost.join(' and ')} is ${where} (${seedNote})`, async () => {
        for (const options of corpus) {
          const whole = await sample(options)
          const bytes = Buffer.from(whole.bytes)
          for (const field of lost) bytes.writeBigUInt64BE(place(bytes), offsets[field])
          await expectRepaired(bytes, whole, JSON.stringify(options))
        }
      })
    }
  }

  for (const [field, value] of [
    ['l1Size', 0],
    ['l1Size', 0xffffffff],
    ['refcountTableClusters', 0],
    ['refcountTableClusters', 0xffffffff],
    ['nbSnapshots', 0xffffffff],
  ] as const) {
    it(`whose ${field} is ${value} (${seedNote})`, async () => {
      for (const options of corpus) {
        const whole = await sample(options)
        const bytes = Buffer.from(whole.bytes)
        bytes.writeUInt32BE(value, offsets[field])
        await expectRepaired(bytes, whole, JSON.stringify(options))
      }
    })
  }

  it(`without an L1 table anywhere changes nothing (${seedNote})`, async () => {
    const { bytes } = await sample({ cluster_size: 4096 })
    const l1 = Number(bytes.readBigUInt64BE(offsets.l1TableOffset))
    bytes.fill(0xff, l1, l1 + 4096)
    bytes.writeBigUInt64BE(2n ** 40n, offsets.l1TableOffset)
    const file = MemoryLayer.of(Uint8Array.from(bytes))
    const { image } = await openImage(file, { check: true })
    await expect(image.check('all')).rejects.toThrow('Active L1 table offset invalid')
    // What it led to seems to leak.
    const { leaksFixed } = await image.check('leaks')
    expect(leaksFixed).toBe(0)
    await image.close()
    expect((await bytesOf(file)).equals(bytes)).toBe(true)
  })

  it(`does not take an L1 table of long ago for the one that is lost (${seedNote})`, async () => {
    const { bytes } = await sample({ cluster_size: 4096 })
    const l1 = Number(bytes.readBigUInt64BE(offsets.l1TableOffset))
    const old = Buffer.concat([bytes, bytes.subarray(l1, l1 + 4096)])
    old.writeBigUInt64BE(0n, offsets.l1TableOffset)
    old.writeBigUInt64BE(0n, offsets.refcountTableOffset)
    const { image } = await openImage(MemoryLayer.of(Uint8Array.from(old)), { check: true })
    await expect(image.check('all')).rejects.toThrow('Active L1 table offset invalid')
    await image.close()
  })
})

async function expectRepaired(bytes: Buffer, whole: Sample, note: string): Promise<void> {
  const file = MemoryLayer.of(Uint8Array.from(bytes))
  const { image } = await openImage(file, { check: true })
  const repaired = await image.check('all')
  const said = `${note}: ${repaired.messages.join('\n')}`
  expect([repaired.corruptions, repaired.leaks, repaired.checkErrors], said).toEqual([0, 0, 0])
  const again = await image.check('none')
  expect([again.corruptions, again.leaks, again.messages], said).toEqual([0, 0, []])
  await image.close()
  const { layer } = await openImage(file)
  expect((await contentOf(layer)).equals(whole.disk), said).toBe(true)
  await layer.snapshots!.apply('kept', plainIo)
  expect((await contentOf(layer)).equals(whole.snapshot), said).toBe(true)
  await layer[Symbol.asyncDispose]()
}
