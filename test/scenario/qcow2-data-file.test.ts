/**
 * qcow2 images whose data lies in a file of its own: what that file holds while the guest works,
 * and what the two files together show after a crash.
 */
import { describe, expect, it } from 'vitest'
import { Filter } from '../../src/block/filter.ts'
import {
  type BlockLayer,
  type Completion,
  type Io,
  plainIo,
  plainWriteIo,
  plainZeroIo,
  type WriteIo,
  type ZeroIo,
} from '../../src/block/layer.ts'
import { MemoryLayer } from '../../src/protocol/memory.ts'
import { UnstableMemory } from '../../src/protocol/unstable-memory/unstable-memory.ts'
import { CrashModel, sectorSize } from '../support/crash-model.ts'
import { newImage, openImage } from '../support/qcow2.ts'
import { Random, runSeed, seedNote } from '../support/random.ts'

const diskSize = 256 * 1024

const kinds: readonly Readonly<Record<string, unknown>>[] = [
  { cluster_size: 4096 },
  { cluster_size: 512, lazy_refcounts: 'on' },
  { cluster_size: 16384, extended_l2: 'on' },
  { cluster_size: 4096, data_file_raw: 'on' },
  { cluster_size: 16384, extended_l2: 'on', data_file_raw: 'on' },
  { cluster_size: 4096, 'encrypt.format': 'aes', 'encrypt.key-secret': 's' },
]

describe('a qcow2 image with a data file, after a crash', () => {
  for (const kind of kinds) {
    it(`has what was flushed, and leaks at most: ${JSON.stringify(kind)} (${seedNote})`, async () => {
      const random = new Random()
      const pair = new Pair(await newPair(kind))
      const model = new CrashModel(diskSize, () => pair.steps)
      const { layer } = await openImage(pair.file, {}, undefined, pair.data)
      while (pair.steps < 300) {
        await request(layer, model, random)
        if (random.chance(0.2)) {
          const begun = model.beginFlush()
          await layer.flush(plainIo)
          model.flushed(begun)
        }
      }
      await layer[Symbol.asyncDispose]()
      for (const { file, data, step, note } of pair.crashes()) {
        const found = await openImage(file, {}, undefined, data)
        const { corruptions, checkErrors, messages } = await found.image.check('none')
        expect([corruptions, checkErrors], `${note}: ${messages.join('; ')}`).toEqual([0, 0])
        await model.expectPossible(found.layer, step, note)
        if (kind.data_file_raw) await model.expectPossible(data, step, `${note}, raw`)
      }
    })
  }
})

describe('a raw data file', () => {
  it(`is the disk, whatever the guest does and however its size changes (${seedNote})`, async () => {
    const random = new Random()
    for (const kind of kinds.filter(({ data_file_raw }) => data_file_raw)) {
      const { file, data } = await newPair(kind)
      const { layer, image } = await openImage(file, {}, undefined, data)
      for (let round = 0; round < 150; round++) {
        const [offset, length] = random.range(layer.size, sectorSize, 40_000)
        const verb = random.below(5)
        const mayUnmap = random.chance(0.5)
        if (verb < 2) await layer.write(offset, random.bytes(length), plainWriteIo)
        else if (verb === 2) await layer.writeZeroes(offset, length, { ...plainZeroIo, mayUnmap })
        else if (verb === 3) await layer.discard(offset, length, plainIo)
        else if (random.chance(0.2)) await layer.truncate(512 * (1 + random.below(800)), plainIo)
        expect(data.size).toBe(layer.size)
        expect(Buffer.compare(await contentOf(layer), await contentOf(data))).toBe(0)
      }
      await layer.flush(plainIo)
      expect(await image.check('none')).toMatchObject({ corruptions: 0, leaks: 0 })
      await layer[Symbol.asyncDispose]()
      const again = await openImage(file, { readOnly: true }, undefined, data)
      expect(Buffer.compare(await contentOf(again.layer), await contentOf(data))).toBe(0)
    }
  })

  it('shows what it held before the image was made', async () => {
    const data = MemoryLayer.of(new Random().bytes(diskSize))
    const before = await contentOf(data)
    for (const extended_l2 of ['on', 'off']) {
      const options = { size: diskSize, data_file_raw: 'on', extended_l2 }
      const file = await newImage(options, undefined, data)
      const { layer } = await openImage(file, {}, undefined, data)
      expect(Buffer.compare(await contentOf(layer), before)).toBe(0)
      await layer[Symbol.asyncDispose]()
    }
  })
})

describe('an image with a data file', () => {
  it('shows nothing of what the data file held', async () => {
    const data = MemoryLayer.of(new Random().bytes(diskSize))
    const file = await newImage({ size: diskSize, cluster_size: 4096 }, undefined, data)
    const { layer } = await openImage(file, {}, undefined, data)
    await layer.write(10_240, new Uint8Array(512).fill(7), plainWriteIo)
    const expected = new Uint8Array(diskSize).fill(7, 10_240, 10_752)
    expect(Buffer.compare(await contentOf(layer), expected)).toBe(0)
  })

  it('reads as zeroes where the data file ends early, and makes it longer to write', async () => {
    const data = new MemoryLayer({ size: 0 })
    const file = await newImage({ size: diskSize, preallocation: 'metadata' }, undefined, data)
    await data.truncate(1000, plainIo)
    const readOnly = await openImage(file, { readOnly: true }, undefined, data)
    expect(Buffer.compare(await contentOf(readOnly.layer), new Uint8Array(diskSize))).toBe(0)
    const { layer } = await openImage(file, {}, undefined, data)
    await layer.write(diskSize - 512, new Uint8Array(512).fill(1), plainWriteIo)
    expect(data.size).toBe(diskSize)
  })

  it('refuses compressed clusters, and entries that lead elsewhere', async () => {
    const data = new MemoryLayer({ size: 0 })
    const file = await newImage({ size: diskSize, cluster_size: 4096 }, undefined, data)
    const { layer, image } = await openImage(file, {}, undefined, data)
    await expect(
      layer.compressed!.write(0, new Uint8Array(4096), plainWriteIo),
    ).rejects.toMatchObject({
      code: 'UNSUPPORTED',
    })
    await layer.write(0, new Uint8Array(8192).fill(1), plainWriteIo)
    const table = image.l2Tables.offsetAt(0)
    await layer[Symbol.asyncDispose]()
    await file.write(table + 8 + 6, Uint8Array.of(0x30), plainWriteIo)
    const broken = await openImage(file, { readOnly: true }, undefined, data)
    await expect(contentOf(broken.layer)).rejects.toMatchObject({
      code: 'CORRUPT_IMAGE',
      offset: table + 8,
    })
  })
})

describe('repair of an image with a data file', () => {
  // Of the first and the second cluster: the entry as it is found, and what the disk shows then.
  const repairs: [what: string, entries: [bigint, bigint], shown: [number, number]][] = [
    ['keeps the first cluster, which lies at 0', [2n ** 63n, 2n ** 63n + 4096n], [1, 1]],
    ['takes reserved bits away', [2n ** 63n + 2n ** 60n, 2n ** 63n + 4096n + 8n], [1, 1]],
    [
      'leads what lies beyond 2^53 to its own place',
      [2n ** 53n - 4096n, 2n ** 56n - 4096n],
      [1, 1],
    ],
    ['gives up zeroes kept beyond 2^53', [2n ** 63n, 2n ** 53n - 4095n], [1, 0]],
  ]
  for (const [what, entries, shown] of repairs) {
    it(what, async () => {
      const { file, data } = await newPair({ cluster_size: 4096 })
      const { layer, image } = await openImage(file, {}, undefined, data)
      await layer.write(0, new Uint8Array(8192).fill(1), plainWriteIo)
      const table = image.l2Tables.offsetAt(0)
      await layer[Symbol.asyncDispose]()
      const words = Buffer.alloc(16)
      for (const [index, entry] of entries.entries()) words.writeBigUInt64BE(entry, 8 * index)
      await file.write(table, words, plainWriteIo)
      const broken = await openImage(file, { check: true }, undefined, data)
      await broken.image.check('all')
      const again = await broken.image.check('none')
      expect([again.corruptions, again.leaks], again.messages.join('; ')).toEqual([0, 0])
      await broken.layer[Symbol.asyncDispose]()
      const repaired = await openImage(file, { readOnly: true }, undefined, data)
      const content = await contentOf(repaired.layer)
      expect([content[0], content[4096]]).toEqual(shown)
    })
  }
})

interface Files {
  readonly file: BlockLayer
  readonly data: BlockLayer
}

async function newPair(kind: Readonly<Record<string, unknown>>): Promise<Files> {
  const data = new MemoryLayer({ size: 0 })
  return { file: await newImage({ size: diskSize, ...kind }, undefined, data), data }
}

/** Two disks that lose their power at the same moment. */
class Pair {
  readonly file: BlockLayer
  readonly data: BlockLayer
  readonly #file: UnstableMemory
  readonly #data: UnstableMemory
  /** Changes of each after every request. */
  readonly #moments: [number, number][] = [[0, 0]]

  constructor({ file, data }: Files) {
    this.#file = new UnstableMemory({ size: file.size, content: bytesOf(file) })
    this.#data = new UnstableMemory({ size: data.size, content: bytesOf(data) })
    const note = () => {
      this.#moments.push([this.#file.steps, this.#data.steps])
    }
    this.file = new Noting(this.#file, note)
    this.data = new Noting(this.#data, note)
  }

  get steps(): number {
    return this.#file.steps + this.#data.steps
  }

  *crashes() {
    for (const [inFile, inData] of this.#moments) {
      const file = this.#file.crashAfter(inFile, runSeed)
      const data = this.#data.crashAfter(inData, runSeed + 1)
      const note = `crash after ${inFile} changes of the image and ${inData} of the data file`
      yield { file, data, step: inFile + inData, note }
    }
  }
}

class Noting extends Filter {
  readonly #note: () => void

  constructor(next: BlockLayer, note: () => void) {
    super(next)
    this.#note = note
  }

  override write(offset: number, source: Uint8Array, io: WriteIo): Completion {
    this.next.write(offset, source, io)
    this.#note()
  }

  override writeZeroes(offset: number, length: number, io: ZeroIo): Completion {
    this.next.writeZeroes(offset, length, io)
    this.#note()
  }

  override discard(offset: number, length: number, io: Io): Completion {
    this.next.discard(offset, length, io)
    this.#note()
  }

  override flush(io: Io): Completion {
    this.next.flush(io)
    this.#note()
  }

  override truncate(size: number, io: Io): Completion {
    this.next.truncate(size, io)
    this.#note()
  }
}

async function request(layer: BlockLayer, model: CrashModel, random: Random): Promise<void> {
  const [offset, length] = random.range(diskSize, sectorSize, 12 * 1024)
  const choice = random.next()
  if (choice < 0.65) {
    await layer.write(offset, model.begin(offset, length), plainWriteIo)
  } else if (choice < 0.85) {
    model.begin(offset, length, true)
    const mayUnmap = random.chance(0.5)
    await layer.writeZeroes(offset, length, { ...plainZeroIo, mayUnmap })
  } else {
    const [from, part] = random.range(diskSize, layer.limits.discardAlignment, 16 * 1024)
    model.begin(from, part, true)
    await layer.discard(from, part, plainIo)
  }
}

async function contentOf(layer: BlockLayer): Promise<Uint8Array> {
  const bytes = new Uint8Array(layer.size)
  await layer.read(0, bytes, plainIo)
  return bytes
}

function bytesOf(layer: BlockLayer): Uint8Array {
  const bytes = new Uint8Array(layer.size)
  void layer.read(0, bytes, plainIo)
  return bytes
}
