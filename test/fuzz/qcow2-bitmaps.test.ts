/**
 * Hostile bitmap directories, tables and extensions: every field set to extreme values, and random
 * bytes. Opening ends soon, in an open image or in a `BlockError` with a code, without taking more
 * memory than the file has bytes; and the check never throws anything else.
 */
import { expect, it } from 'vitest'
import { plainIo } from '../../src/block/layer.ts'
import { KiB } from '../../src/bytes/range.ts'
import { BlockError } from '../../src/errors.ts'
import { addBitmap } from '../../src/graph/bitmap-actions.ts'
import { MemoryLayer } from '../../src/protocol/memory.ts'
import { openSession } from '../support/bitmaps.ts'
import { newImage, openImage } from '../support/qcow2.ts'
import { Random, seedNote } from '../support/random.ts'

const size = 3 * 1024 * KiB

interface Seed {
  readonly bytes: Uint8Array
  /** Where the directory, and the table of each bitmap, begin. */
  readonly places: readonly number[]
}

async function seedImage(): Promise<Seed> {
  const file = await newImage({ size, cluster_size: 512 })
  const session = await openSession(file)
  for (const [index, granularity] of [512, 4096, 65536].entries()) {
    addBitmap(session.node, { name: `bitmap${index}`, granularity, persistent: true })
  }
  for (let at = 0; at < size; at += 100 * KiB) await session.guest.write(at, Buffer.alloc(512, 1))
  await session.close()
  const bytes = new Uint8Array(file.size)
  await file.read(0, bytes, plainIo)
  const view = new DataView(bytes.buffer)
  // The extension lies behind the header of 112 bytes.
  expect(view.getUint32(112)).toBe(0x23852875)
  const directory = Number(view.getBigUint64(112 + 8 + 16))
  const tables = [0, 32, 64].map((at) => Number(view.getBigUint64(directory + at)))
  return { bytes, places: [112, directory, ...tables] }
}

const extremes = [
  0n,
  1n,
  511n,
  2n ** 16n,
  2n ** 31n,
  2n ** 32n - 1n,
  2n ** 44n,
  2n ** 63n,
  2n ** 64n - 1n,
]

/** Opens, looks, writes and closes, or is refused; then checks. */
async function attempt(bytes: Uint8Array, note: string): Promise<string> {
  const file = new MemoryLayer({ size: 0 })
  await file.truncate(bytes.length, plainIo)
  await file.write(0, bytes, plainIo as never)
  try {
    const { image, layer } = await openImage(file, { check: true })
    await image.check('none')
    await layer[Symbol.asyncDispose]()
  } catch (error) {
    expect(error, note).toBeInstanceOf(BlockError)
  }
  let outcome = 'fine'
  try {
    const session = await openSession(file)
    for (const bitmap of session.node.bitmaps) [...bitmap.runs()]
    await session.guest.write(0, Buffer.alloc(512, 1))
    await session.close()
  } catch (error) {
    expect(error, note).toBeInstanceOf(BlockError)
    outcome = (error as BlockError).code
  }
  return outcome
}

it(`every field of extension, directory and tables (${seedNote})`, async () => {
  const { bytes, places } = await seedImage()
  const outcomes = new Set<string>()
  for (const place of places) {
    for (let at = place; at < place + 40; at += 4) {
      for (const value of extremes) {
        const broken = bytes.slice()
        const view = new DataView(broken.buffer)
        if (value < 2n ** 32n) view.setUint32(at, Number(value))
        else view.setBigUint64(at, value)
        outcomes.add(await attempt(broken, `${at}=${value}`))
      }
    }
  }
  expect([...outcomes]).toContain('CORRUPT_IMAGE')
  expect([...outcomes]).toContain('UNSUPPORTED')
})

it(`random damage (${seedNote})`, async () => {
  const random = new Random()
  const { bytes, places } = await seedImage()
  const outcomes = new Set<string>()
  for (let round = 0; round < 600; round++) {
    const broken = bytes.slice()
    for (let count = 1 + random.below(4); count > 0; count--) {
      broken[random.pick(places) + random.below(96)] = random.below(256)
    }
    outcomes.add(await attempt(broken, `round ${round}`))
  }
  expect([...outcomes]).toContain('fine')
  expect([...outcomes]).toContain('CORRUPT_IMAGE')
})

it('bitmaps that all claim the same clusters are refused before memory is taken', async () => {
  const { bytes, places } = await seedImage()
  const broken = bytes.slice()
  const view = new DataView(broken.buffer)
  const [, directory, first] = places
  for (const at of [32, 64]) view.setBigUint64(directory + at, BigInt(first))
  expect(['fine', 'CORRUPT_IMAGE']).toContain(await attempt(broken, ''))
})
