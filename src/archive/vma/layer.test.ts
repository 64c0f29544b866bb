import { describe, expect, test } from 'vitest'
import { testLayer } from '../../../test/conformance/layer.ts'
import { Random } from '../../../test/support/random.ts'
import { archiveOf, MemorySink, memorySource, patternedDisk } from '../../../test/support/vma.ts'
import { plainIo } from '../../block/layer.ts'
import { vma } from './driver.ts'
import { ZstdSink } from './io/compress-sink.ts'
import { randomAccessTo } from './io/open-source.ts'
import type { RandomAccess } from './io/source.ts'
import { VmaLayer } from './layer.ts'
import { VmaReader } from './reader.ts'
import { VmaWriter } from './writer.ts'

const cluster = 65_536
const content = patternedDisk(200 * cluster + 5000, 11)

async function open(bytes: Buffer, name?: string): Promise<VmaLayer> {
  return VmaLayer.open(await VmaReader.open(memorySource(bytes, true)), name)
}

/** The disk in clusters out of order, as a backup under guest writes makes them. */
async function scattered(extensions: boolean): Promise<Buffer> {
  const sink = new MemorySink()
  await using writer = await VmaWriter.open(sink, { extensions })
  const id = writer.registerStream('disk', content.length)
  const random = new Random(12)
  const order = Array.from({ length: 201 }, (_, number) => ({ number, key: random.below(2 ** 32) }))
  order.sort((a, b) => a.key - b.key)
  for (const { number } of order) {
    const data = content.subarray(number * cluster, (number + 1) * cluster)
    await writer.write(id, number, data)
  }
  await writer.closeStream(id)
  await writer.close()
  return sink.bytes
}

test.each([
  ['in order', () => archiveOf([{ name: 'disk', content }])],
  [
    'in order, by another program',
    () => archiveOf([{ name: 'disk', content }], [], { extensions: false }),
  ],
  ['scattered', () => scattered(true)],
  ['scattered, by another program', () => scattered(false)],
])('a disk stored %s reads as it was, at any place', async (_, make) => {
  await using layer = await open(await make())
  expect(layer.size).toBe(content.length)
  const whole = Buffer.alloc(content.length)
  await layer.read(0, whole)
  expect(whole.equals(content)).toBe(true)
  const random = new Random(3)
  for (let round = 0; round < 100; round++) {
    const offset = random.below(content.length)
    const target = Buffer.alloc(Math.min(1 + random.below(200_000), content.length - offset), 0xee)
    await layer.read(offset, target)
    expect(target.equals(content.subarray(offset, offset + target.length)), `${offset}`).toBe(true)
  }
})

test('extents tell data from zeroes, block by block', async () => {
  await using layer = await open(await archiveOf([{ name: 'disk', content }]))
  for (let at = 0; at < layer.size; ) {
    const extent = layer.extentAt(at, layer.size - at)
    expect(extent.length).toBeGreaterThan(0)
    const zero = content.subarray(at, at + extent.length).every((byte) => byte === 0)
    expect(extent.kind, `at ${at}`).toBe(zero ? 'zero' : 'data')
    at += extent.length
  }
})

test('damage is found when the extent is touched, and not before', async () => {
  const bytes = await archiveOf([{ name: 'disk', content: Buffer.alloc(100 * cluster, 1) }])
  bytes[bytes.length - 600_000] ^= 1
  await using layer = await open(bytes)
  await layer.read(0, Buffer.alloc(4096))
  await expect(layer.read(60 * cluster, Buffer.alloc(4096))).rejects.toMatchObject({
    code: 'CORRUPT_IMAGE',
  })
})

test('writing is refused', async () => {
  await using layer = await open(await archiveOf([{ name: 'disk', content }]))
  expect(() => layer.write()).toThrow(expect.objectContaining({ code: 'READ_ONLY' }))
})

describe('choosing the device', () => {
  const make = () =>
    archiveOf([
      { name: 'a', content: Buffer.alloc(10, 1) },
      { name: 'b', content: Buffer.alloc(20, 2) },
      { name: 'vmstate', content: Buffer.alloc(cluster), size: cluster },
    ])

  test('by name', async () => {
    await using layer = await open(await make(), 'b')
    expect(layer.size).toBe(20)
    expect(layer.image.specific!()).toMatchObject({ type: 'vma', data: { device: 'b' } })
  })

  test.each([
    [undefined, "choose one with 'device': a, b"],
    ['c', "there is no device 'c'"],
    ['vmstate', 'RAM state'],
  ])('%s is refused', async (name, message) => {
    await expect(open(await make(), name)).rejects.toThrow(message)
  })
})

test('an incomplete device cannot be opened', async () => {
  const whole = await archiveOf([{ name: 'disk', content }], [], { extensions: false })
  const second = whole.indexOf('VMAE', 13_000)
  await expect(open(whole.subarray(0, second))).rejects.toThrow('cluster 58 is missing')
})

for (const [name, make] of [
  ['vma', scattered],
  ['vma in zstd', async (extensions: boolean) => await zstdOf(await scattered(extensions))],
] as const) {
  testLayer(name, async () => {
    const bytes = await make(true)
    const random = await randomAccessTo('memory', memorySource(bytes, true).random!)
    const source = { ...memorySource(bytes, true), random, read: inOrder(random!) }
    const layer = await VmaLayer.open(await VmaReader.open(source))
    return { layer, content, [Symbol.asyncDispose]: () => layer[Symbol.asyncDispose]() }
  })
}

function inOrder(file: RandomAccess) {
  let position = 0
  return async (target: Uint8Array) => {
    const count = await file.readAt(position, target)
    position += count
    return count
  }
}

async function zstdOf(archive: Buffer): Promise<Buffer> {
  const sink = new MemorySink()
  const zstd = new ZstdSink(sink)
  for (let at = 0; at < archive.length; at += 1_500_000) {
    await zstd.write(archive.subarray(at, at + 1_500_000))
  }
  await zstd.finish()
  return sink.bytes
}

test('the driver takes a file and a device', async () => {
  expect(vma.parse({ file: 'node0', device: 'a' })).toEqual({ file: 'node0', device: 'a' })
  expect(() => vma.parse({ device: 'a' })).toThrow("Parameter 'file' is missing")
  expect(() => vma.parse({ file: 'a', typo: 1 })).toThrow("'typo' is unexpected")
  expect(vma.probe!(Buffer.from('VMA\0....'))).toBe(true)
})

test('the driver reads through its child and leaves it open', async () => {
  const bytes = await archiveOf([{ name: 'disk', content }])
  let disposed = false
  const child = {
    size: bytes.length,
    read: async (offset: number, target: Uint8Array) => void bytes.copy(target, 0, offset),
    [Symbol.asyncDispose]: async () => {
      disposed = true
    },
  }
  const flags = { readOnly: true }
  const context = { ...plainIo, name: 'node1', flags, child: async () => child } as never
  {
    await using layer = await vma.open(vma.parse({ file: 'x' }), context)
    const target = Buffer.alloc(10_000)
    await layer.read(cluster, target, plainIo)
    expect(target.equals(content.subarray(cluster, cluster + 10_000))).toBe(true)
  }
  expect(disposed).toBe(false)
  flags.readOnly = false
  await expect(vma.open(vma.parse({ file: 'x' }), context)).rejects.toMatchObject({
    code: 'READ_ONLY',
  })
})
