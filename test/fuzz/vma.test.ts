/** Damaged archives: nothing passes unnoticed, and nothing but a BlockError comes of it. */
import { createHash } from 'node:crypto'
import { Readable } from 'node:stream'
import { describe, expect, it } from 'vitest'
import { GzipSink, ZstdSink } from '../../src/archive/vma/io/compress-sink.ts'
import { openSource } from '../../src/archive/vma/io/open-source.ts'
import { VmaLayer } from '../../src/archive/vma/layer.ts'
import { VmaReader } from '../../src/archive/vma/reader.ts'
import { BlockError } from '../../src/errors.ts'
import { Random, runSeed, seedNote } from '../support/random.ts'
import { archiveOf, MemorySink, memorySource } from '../support/vma.ts'

/** A small archive: two devices, an extent with data, an index. */
function smallArchive(extensions = true): Promise<Buffer> {
  const one = Buffer.alloc(70_000)
  one.fill(1, 4096, 8192)
  return archiveOf(
    [
      { name: 'one', content: one },
      { name: 'two', content: Buffer.from('two') },
    ],
    [{ name: 'vm.conf', data: Buffer.from('x: y\n') }],
    { extensions },
  )
}

async function outcome(bytes: Buffer): Promise<unknown> {
  try {
    await using reader = await VmaReader.open(memorySource(bytes, false))
    for await (const _ of reader.extents());
  } catch (error) {
    return error
  }
  return undefined
}

describe('every single byte', () => {
  it('that is flipped is found', async () => {
    const bytes = await smallArchive()
    const missed: number[] = []
    for (let at = 0; at < bytes.length; at++) {
      const before = bytes[at]
      bytes[at] ^= 1 << (at % 8)
      if (!((await outcome(bytes)) instanceof BlockError)) missed.push(at)
      bytes[at] = before
    }
    expect(missed).toEqual([])
  })

  it('that is cut off is found', async () => {
    for (const extensions of [true, false]) {
      const bytes = await smallArchive(extensions)
      for (let length = 0; length < bytes.length; length++) {
        const error = await outcome(bytes.subarray(0, length))
        if (!(error instanceof BlockError)) expect.fail(`${length} of ${bytes.length}: ${error}`)
      }
    }
  })
})

describe.each(['zstd', 'gzip'] as const)('every single byte of %s', (kind) => {
  const compress = async () => {
    const sink = new MemorySink()
    const pieces = kind === 'zstd' ? new ZstdSink(sink) : new GzipSink(sink)
    const archive = await smallArchive()
    await pieces.write(archive.subarray(0, 12_800))
    await pieces.write(archive.subarray(12_800))
    await pieces.finish()
    return { archive, compressed: sink.bytes }
  }

  /** What can be read of it, or the error that says why it cannot. */
  const decoded = async (bytes: Buffer): Promise<Buffer | BlockError> => {
    try {
      await using source = await openSource('-', { stdin: Readable.from([bytes]) })
      const target = Buffer.alloc(100_000)
      return target.subarray(0, await source.read(target))
    } catch (error) {
      if (error instanceof BlockError) return error
      throw error
    }
  }

  it('that is flipped is found, or changes nothing', async () => {
    const { archive, compressed } = await compress()
    for (let at = 0; at < compressed.length; at++) {
      const bytes = Buffer.from(compressed)
      bytes[at] ^= 1 << (at % 8)
      const result = await decoded(bytes)
      if (result instanceof BlockError || result.equals(archive)) continue
      // Another magic number makes it another file, which is no archive.
      if (result.equals(bytes.subarray(0, 100_000))) continue
      // gzip takes what follows a member, and is no member itself, for padding; the archive tells.
      expect(await outcome(result), `byte ${at}`).toBeInstanceOf(BlockError)
    }
  })

  it('that is cut off is found', async () => {
    const { archive, compressed } = await compress()
    for (let length = 0; length < compressed.length; length++) {
      const result = await decoded(compressed.subarray(0, length))
      if (result instanceof BlockError || result.equals(archive)) continue
      expect(await outcome(result), `${length} bytes`).toBeInstanceOf(BlockError)
    }
  })
})

/** Sets the MD5s right again, as far as the extents can be followed. */
function reseal(bytes: Buffer): void {
  const size = Math.min(bytes.readUInt32BE(56), bytes.length)
  sealAt(bytes, 0, size, 32)
  for (
    let at = size;
    at + 512 <= bytes.length && bytes.toString('latin1', at, at + 4) === 'VMAE';
  ) {
    sealAt(bytes, at, 512, 24)
    at += 512 + 4096 * bytes.readUInt16BE(at + 6)
  }
}

function sealAt(bytes: Buffer, at: number, length: number, field: number): void {
  bytes.fill(0, at + field, at + field + 16)
  createHash('md5')
    .update(bytes.subarray(at, at + length))
    .digest()
    .copy(bytes, at + field)
}

/** Interesting places: fixed fields, tables that are used, slots, the index. */
function randomPlace(random: Random, length: number): number {
  const regions = [
    [0, 80],
    [2044, 16],
    [3068, 16],
    [4096, 128],
    [12_288, 512],
    [12_800, 600],
    [length - 512, 512],
  ]
  const [start, size] = random.pick(regions)
  return Math.min(length - 1, start + random.below(size))
}

it(`resealed nonsense ends in a BlockError or in nothing (${seedNote})`, async () => {
  const random = new Random(runSeed)
  for (let round = 0; round < 1000; round++) {
    const bytes = await smallArchive(random.chance(0.5))
    for (let changes = 1 + random.below(4); changes > 0; changes--) {
      bytes[randomPlace(random, bytes.length)] = random.pick([
        0,
        1,
        0x7f,
        0x80,
        0xff,
        random.below(256),
      ])
    }
    reseal(bytes)
    const error = await outcome(bytes)
    if (error !== undefined && !(error instanceof BlockError)) throw error
    await tryLayer(bytes)
  }
})

/** Opens each device as a disk and reads it. */
async function tryLayer(bytes: Buffer): Promise<void> {
  for (const name of ['one', 'two']) {
    try {
      await using layer = await VmaLayer.open(await VmaReader.open(memorySource(bytes, true)), name)
      await layer.read(0, Buffer.alloc(Math.min(layer.size, 100_000)))
    } catch (error) {
      if (!(error instanceof BlockError)) throw error
    }
  }
}
