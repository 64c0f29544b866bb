/**
 * Repair of images with planted damage of every kind: afterwards both checkers call the image clean,
 * and no cluster whose own entries were left alone has lost its content.
 */
import { writeFileSync } from 'node:fs'
import path from 'node:path'
import { describe, expect, it } from 'vitest'
import { type BlockLayer, plainIo, plainWriteIo, plainZeroIo } from '../../src/block/layer.ts'
import { headerV3 } from '../../src/format/qcow2/header.ts'
import { MemoryLayer } from '../../src/protocol/memory.ts'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { newImage, openImage } from '../support/qcow2.ts'
import { addSnapshot } from '../support/qcow2-snapshot.ts'
import { Random, runSeed, seedNote } from '../support/random.ts'

const qemuImg = peer('qemu-img')
const folder = scratchFolder('qcow2-repair')
const diskSize = 256 * 1024
const rounds = process.env.VARVE_LONG ? 40 : 5

type Options = Readonly<Record<string, unknown>>

const corpus: readonly [options: Options, snapshot: boolean][] = [
  [{ cluster_size: 512 }, false],
  [{ cluster_size: 512, refcount_bits: 64 }, true],
  [{ cluster_size: 4096, refcount_bits: 1 }, false],
  [{ cluster_size: 4096, compat: '0.10' }, true],
  [{ cluster_size: 1024, refcount_bits: 8, compression_type: 'zstd' }, true],
]

/** Where an image has what. Offsets in bytes, indices in entries of eight bytes. */
interface Anatomy {
  readonly bytes: Uint8Array
  readonly view: DataView
  readonly clusterSize: number
  readonly l1: number
  readonly l1Size: number
  readonly refcountTable: number
  readonly refcountTableClusters: number
  readonly refcountBits: number
  readonly snapshots: number
}

/** Bytes of the disk that a damage may cost. */
interface Loss {
  readonly offset: number
  readonly length: number
}

const none: Loss = { offset: 0, length: 0 }

type Damage = (image: Anatomy, random: Random) => Loss

const damages: Readonly<Record<string, Damage>> = {
  'a refcount of zero': (image, random) => setRefcount(image, random, 0),
  'a refcount too high': (image, random) =>
    setRefcount(image, random, image.refcountBits === 1 ? 1 : 2 + random.below(2)),
  'a block of refcounts full of noise': (image, random) => {
    image.bytes.set(noise(random, image.clusterSize), blockOffset(image, random))
    return none
  },
  'a refcount table entry that is not aligned': (image, random) => {
    const at = image.refcountTable + 8 * usedBlock(image, random)
    image.view.setBigUint64(
      at,
      image.view.getBigUint64(at) + 512n * BigInt(image.clusterSize > 512 ? 1 : 0) + 1n,
    )
    return none
  },
  'a refcount table entry behind the end of the file': (image, random) => {
    const at = image.refcountTable + 8 * usedBlock(image, random)
    image.view.setBigUint64(at, BigInt(image.clusterSize) * 2n ** 24n)
    return none
  },
  'entries of the refcount table that name one block': (image, random) => {
    const block = image.view.getBigUint64(image.refcountTable)
    const entries = (image.refcountTableClusters * image.clusterSize) / 8
    for (let index = random.below(3); index < entries; index++) {
      image.view.setBigUint64(image.refcountTable + 8 * index, block)
    }
    return none
  },
  'a refcount table that is lost': (image) => {
    const length = image.refcountTableClusters * image.clusterSize
    image.bytes.fill(0, image.refcountTable, image.refcountTable + length)
    return none
  },
  // Repair gives the entry up, and what was a block of the refcount table is none afterwards.
  'a refcount table that lies on an L1 table with an entry that names itself': (image, random) => {
    const at = l1Entry(image, random)
    image.view.setBigUint64(at, BigInt(image.l1))
    image.view.setBigUint64(headerV3.offsets.refcountTableOffset, BigInt(image.l1))
    return coveredBy(image, at)
  },
  'an L1 entry with reserved bits': (image, random) => {
    const at = l1Entry(image, random)
    image.bytes[at] |= 0x41
    image.bytes[at + 7] |= 0x10
    return none
  },
  'an L1 entry without its mark': (image, random) => {
    image.bytes[l1Entry(image, random)] &= 0x7f
    return none
  },
  'an L1 entry that points behind the file': (image, random) => {
    const at = l1Entry(image, random)
    image.view.setBigUint64(at, 2n ** 63n + BigInt(image.clusterSize) * 2n ** 20n)
    return coveredBy(image, at)
  },
  'an L1 entry that is not aligned': (image, random) => {
    const at = l1Entry(image, random)
    if (image.clusterSize === 512) return none
    image.view.setBigUint64(at, image.view.getBigUint64(at) + 512n)
    return coveredBy(image, at)
  },
  'an L2 entry that points behind the file': (image, random) => {
    const { at, loss } = l2Entry(image, random)
    image.view.setBigUint64(at, 2n ** 63n + BigInt(image.clusterSize) * 2n ** 20n)
    return loss
  },
  'an L2 entry that is not aligned': (image, random) => {
    const { at, loss } = l2Entry(image, random)
    if (image.clusterSize === 512) return none
    image.view.setBigUint64(at, image.view.getBigUint64(at) + 512n)
    return loss
  },
  'an L2 entry with reserved bits': (image, random) => {
    const { at, loss } = l2Entry(image, random)
    image.bytes[at] |= 0x21
    return (image.bytes[at] & 0x40) === 0 ? none : loss
  },
  'an L2 entry without, or with a wrong, mark': (image, random) => {
    const { at } = l2Entry(image, random)
    image.bytes[at] ^= 0x80
    return none
  },
  'two L2 entries that name one cluster': (image, random) => {
    const one = l2Entry(image, random)
    const other = l2Entry(image, random)
    image.view.setBigUint64(one.at, image.view.getBigUint64(other.at))
    return one.loss
  },
  'an L2 entry that names metadata': (image, random) => {
    const { at, loss } = l2Entry(image, random)
    const place = random.pick([image.l1, image.refcountTable, blockOffset(image, random)])
    image.view.setBigUint64(at, 2n ** 63n + BigInt(place))
    return loss
  },
  'noise behind the tables': (image, random) => {
    const { at, loss } = l2Entry(image, random)
    image.bytes.set(noise(random, 8), at)
    return loss
  },
}

describe('repair', () => {
  for (const [name, damage] of Object.entries(damages)) {
    it(`mends ${name} (${seedNote})`, async () => {
      const random = new Random(runSeed)
      for (let round = 0; round < rounds; round++) {
        const [options, snapshot] = corpus[round % corpus.length]
        const sound = await seedImage(options, random, snapshot)
        const bytes = sound.slice()
        const lost = damage(anatomyOf(bytes), random)
        const note = `round ${round}, ${JSON.stringify(options)}`
        await repairAndJudge(sound, bytes, lost, path.join(folder, 'a.qcow2'), note)
      }
    })
  }

  it(`mends many faults at once (${seedNote})`, async () => {
    const random = new Random(runSeed + 1)
    for (let round = 0; round < 3 * rounds; round++) {
      const [options, snapshot] = corpus[round % corpus.length]
      const sound = await seedImage(options, random, snapshot)
      const bytes = sound.slice()
      const names = random.shuffled(Object.keys(damages)).slice(0, 2 + random.below(3))
      // Where tables are lost no damage knows its place any more.
      for (const name of names) {
        if (!name.includes('lost')) damages[name](anatomyOf(bytes), random)
      }
      const note = `round ${round}, ${JSON.stringify(options)}, ${names.join(', ')}`
      const all = { offset: 0, length: diskSize }
      await repairAndJudge(sound, bytes, all, path.join(folder, 'a.qcow2'), note)
    }
  })
})

it(`freeing leaks marks nothing as owned that a snapshot shares (${seedNote})`, async () => {
  const random = new Random(runSeed)
  const options = { cluster_size: 4096 }
  const bytes = await seedImage(options, random, true)
  const image = anatomyOf(bytes)
  // Every count of two or more becomes one, which is too low, and asks for the mark.
  for (let cluster = 0; cluster < bytes.length / image.clusterSize; cluster++) {
    const entries = image.clusterSize / 2
    const block = Number(
      image.view.getBigUint64(image.refcountTable + 8 * Math.floor(cluster / entries)),
    )
    const at = block + 2 * (cluster % entries)
    if (block > 0 && image.view.getUint16(at) > 1) image.view.setUint16(at, 1)
  }
  const file = MemoryLayer.of(bytes.slice())
  const opened = await openImage(file, { check: true })
  const { corruptions, corruptionsFixed } = await opened.image.check('leaks')
  await opened.image.close()
  expect(corruptions).toBeGreaterThan(0)
  expect(corruptionsFixed).toBe(0)
  const after = new Uint8Array(bytes.length)
  await file.read(0, after, plainIo)
  expect(Buffer.compare(after, bytes)).toBe(0)
})

async function repairAndJudge(
  sound: Uint8Array,
  broken: Uint8Array,
  lost: Loss,
  file: string,
  note: string,
): Promise<void> {
  const disk = MemoryLayer.of(broken)
  const { image } = await openImage(disk, { check: true })
  const repaired = await image.check('all')
  expect(
    [repaired.corruptions, repaired.leaks, repaired.checkErrors],
    `${note}: ${repaired.messages.join('\n')}`,
  ).toEqual([0, 0, 0])
  const again = await image.check('none')
  expect([again.corruptions, again.leaks, again.messages], note).toEqual([0, 0, []])
  await image.close()
  const after = await contentOf(disk)
  expect(
    withoutLoss(after, lost).equals(withoutLoss(await contentOf(MemoryLayer.of(sound)), lost)),
    note,
  ).toBe(true)
  if (!qemuImg.path) return
  const bytes = new Uint8Array(disk.size)
  await disk.read(0, bytes, plainIo)
  writeFileSync(file, bytes)
  const judged = await qemuImg.try('check', '-f', 'qcow2', file)
  expect(judged, `${note}\n${repaired.messages.join('\n')}`).toMatchObject({
    status: 0,
    stderr: '',
  })
}

function withoutLoss(content: Uint8Array, { offset, length }: Loss): Buffer {
  return Buffer.concat([content.subarray(0, offset), content.subarray(offset + length)])
}

async function contentOf(disk: BlockLayer): Promise<Uint8Array> {
  const { layer } = await openImage(disk, { readOnly: true })
  const content = new Uint8Array(diskSize)
  for (let at = 0; at < diskSize; at += 512) {
    const sector = content.subarray(at, at + 512)
    // Compressed data whose entry is noise cannot be read, which costs its own cluster only.
    await (async () => await layer.read(at, sector, plainIo))().catch(() => sector.fill(0xee))
  }
  return content
}

async function seedImage(options: Options, random: Random, snapshot: boolean): Promise<Uint8Array> {
  const file = await newImage({ size: diskSize, ...options })
  const { layer } = await openImage(file)
  const { unit } = layer.compressed!
  for (let at = 0; at < diskSize; at += 16_384) {
    const choice = random.next()
    if (choice < 0.5) await layer.write(at, random.bytes(8192), plainWriteIo)
    else if (choice < 0.7)
      await layer.compressed!.write(at, new Uint8Array(unit).fill(7), plainWriteIo)
    else if (choice < 0.85) await layer.writeZeroes(at, 8192, plainZeroIo)
  }
  await layer.write(0, random.bytes(8192), plainWriteIo)
  await layer[Symbol.asyncDispose]()
  if (snapshot) await addSnapshot(file)
  const bytes = new Uint8Array(file.size)
  await file.read(0, bytes, plainIo)
  return bytes
}

function anatomyOf(bytes: Uint8Array): Anatomy {
  const view = new DataView(bytes.buffer)
  const version = view.getUint32(4)
  const { offsets } = headerV3
  const at = (name: keyof typeof offsets) => Number(view.getBigUint64(offsets[name]))
  return {
    bytes,
    view,
    clusterSize: 2 ** view.getUint32(offsets.clusterBits),
    l1: at('l1TableOffset'),
    l1Size: view.getUint32(offsets.l1Size),
    refcountTable: at('refcountTableOffset'),
    refcountTableClusters: view.getUint32(offsets.refcountTableClusters),
    refcountBits: version < 3 ? 16 : 2 ** view.getUint32(offsets.refcountOrder),
    snapshots: at('snapshotsOffset'),
  }
}

function noise(random: Random, length: number): Uint8Array {
  return Uint8Array.from({ length }, () => random.below(256))
}

/** Index of a refcount block that exists. */
function usedBlock({ view, ...image }: Anatomy, random: Random): number {
  const entries = (image.refcountTableClusters * image.clusterSize) / 8
  let count = 0
  while (count < entries && view.getBigUint64(image.refcountTable + 8 * count) !== 0n) count++
  return random.below(Math.max(1, count))
}

function blockOffset(image: Anatomy, random: Random): number {
  const at = image.refcountTable + 8 * usedBlock(image, random)
  const offset = Number(image.view.getBigUint64(at))
  return offset + image.clusterSize <= image.bytes.length ? offset : image.refcountTable
}

function setRefcount(image: Anatomy, random: Random, value: number): Loss {
  const { bytes, clusterSize, refcountBits, view, refcountTable } = image
  const cluster = random.below(bytes.length / clusterSize)
  const entries = (clusterSize * 8) / refcountBits
  const block = Number(view.getBigUint64(refcountTable + 8 * Math.floor(cluster / entries)))
  const index = cluster % entries
  if (block === 0 || block + clusterSize > bytes.length) return none
  if (refcountBits < 8) {
    const mask = 1 << (index % 8)
    const at = block + Math.floor(index / 8)
    bytes[at] = value === 0 ? bytes[at] & ~mask : bytes[at] | mask
  } else {
    const width = refcountBits / 8
    bytes.fill(0, block + index * width, block + (index + 1) * width)
    bytes[block + (index + 1) * width - 1] = value
  }
  return none
}

/** Place of an L1 entry that is used. */
function l1Entry({ view, l1, l1Size }: Anatomy, random: Random): number {
  const used: number[] = []
  for (let index = 0; index < l1Size; index++) {
    if (view.getBigUint64(l1 + 8 * index) !== 0n) used.push(l1 + 8 * index)
  }
  return used.length > 0 ? random.pick(used) : l1
}

function coveredBy({ l1, clusterSize }: Anatomy, at: number): Loss {
  const coverage = (clusterSize / 8) * clusterSize
  return { offset: ((at - l1) / 8) * coverage, length: coverage }
}

/** Place of an L2 entry that is used, and the cluster that it describes. */
function l2Entry(image: Anatomy, random: Random): { at: number; loss: Loss } {
  const { view, clusterSize, bytes } = image
  for (let tries = 0; tries < 1000; tries++) {
    const l1At = l1Entry(image, random)
    const table = view.getUint32(l1At + 4)
    if (table === 0 || table % clusterSize !== 0 || table + clusterSize > bytes.length) continue
    const index = random.below(clusterSize / 8)
    if (view.getBigUint64(table + 8 * index) === 0n) continue
    const offset = coveredBy(image, l1At).offset + index * clusterSize
    return { at: table + 8 * index, loss: { offset, length: clusterSize } }
  }
  return { at: image.l1, loss: { offset: 0, length: diskSize } }
}
