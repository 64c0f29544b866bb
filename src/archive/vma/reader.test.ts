import { createHash } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { Random, runSeed } from '../../../test/support/random.ts'
import {
  applyExtent,
  archiveOf,
  MemorySink,
  memorySource,
  patternedDisk,
  readArchive,
} from '../../../test/support/vma.ts'
import { VmaReader } from './reader.ts'
import { VmaWriter } from './writer.ts'

const cluster = 65_536
const corruptImage = expect.objectContaining({ code: 'CORRUPT_IMAGE', offset: expect.any(Number) })

/** Puts the MD5 right again after a header or extent header was changed. */
function reseal(bytes: Buffer, at: number, length: number, field: number): void {
  bytes.fill(0, at + field, at + field + 16)
  const md5 = createHash('md5')
    .update(bytes.subarray(at, at + length))
    .digest()
  md5.copy(bytes, at + field)
}
const resealHeader = (bytes: Buffer) => reseal(bytes, 0, bytes.readUInt32BE(56), 32)
const resealExtent = (bytes: Buffer, at: number) => reseal(bytes, at, 512, 24)

const disks = [
  { name: 'drive-scsi0', content: patternedDisk(70 * cluster + 5000, 1) },
  { name: 'drive-scsi1', content: patternedDisk(3 * cluster, 2) },
  { name: 'tiny', content: Buffer.from('tiny') },
]

test.each([
  ['a stream', false, true],
  ['a file', true, true],
  ['a stream of another program', false, false],
  ['a file of another program', true, false],
])('what was written comes back from %s', async (_, seekable, extensions) => {
  const bytes = await archiveOf(disks, [{ name: 'a.conf', data: Buffer.from('x') }], { extensions })
  const read = await readArchive(bytes, seekable)
  expect([...read.keys()]).toEqual(['drive-scsi0', 'drive-scsi1', 'tiny'])
  for (const { name, content } of disks) expect(read.get(name)!.equals(content)).toBe(true)
})

test('the header tells names, sizes, time and configs', async () => {
  const uuid = Buffer.alloc(16, 5)
  const config = { name: 'a.conf', data: Buffer.from('hello') }
  const bytes = await archiveOf(disks, [config], { uuid, ctime: 1_800_000_000 })
  await using reader = await VmaReader.open(memorySource(bytes, true))
  expect(reader.header).toMatchObject({
    ctime: 1_800_000_000,
    configs: [{ name: 'a.conf', data: new Uint8Array(config.data) }],
    devices: [
      { id: 1, name: 'drive-scsi0', size: 70 * cluster + 5000 },
      { id: 2, name: 'drive-scsi1', size: 3 * cluster },
      { id: 3, name: 'tiny', size: 4 },
    ],
    extensions: { checksums: true, index: true },
  })
  expect(Buffer.from(reader.header.uuid)).toEqual(uuid)
})

test.each([true, false])('one device alone; with an index: %s', async (extensions) => {
  const bytes = await archiveOf(disks, [], { extensions })
  await using reader = await VmaReader.open(memorySource(bytes, true))
  const disk = Buffer.alloc(3 * cluster)
  for await (const extent of reader.extentsOf(new Set([2]))) {
    expect(extent.clusters.every(({ deviceId }) => deviceId === 2)).toBe(true)
    applyExtent(extent, 2, disk)
  }
  expect(disk.equals(disks[1].content)).toBe(true)
})

test('one device alone passes over groups of extents without it', async () => {
  const big = { name: 'big', content: Buffer.alloc(300 * cluster, 7) }
  const bytes = await archiveOf([big, disks[1]])
  // The first group holds the big device only: a damaged extent there goes unnoticed.
  bytes.fill(0xff, 20_000, 30_000)
  await using reader = await VmaReader.open(memorySource(bytes, true))
  const disk = Buffer.alloc(3 * cluster)
  for await (const extent of reader.extentsOf(new Set([2]))) applyExtent(extent, 2, disk)
  expect(disk.equals(disks[1].content)).toBe(true)
  await expect(readArchive(bytes)).rejects.toEqual(corruptImage)
})

test('clusters may come in any order and interleaved', async () => {
  const sink = new MemorySink()
  await using writer = await VmaWriter.open(sink)
  const [one, two] = [patternedDisk(130 * cluster, 3), patternedDisk(130 * cluster, 4)]
  writer.registerStream('one', one.length)
  writer.registerStream('two', two.length)
  const random = new Random(5)
  const order = Array.from({ length: 130 }, (_, number) => ({ number, key: random.below(2 ** 32) }))
  order.sort((a, b) => a.key - b.key)
  for (const { number } of order) {
    const range = [number * cluster, (number + 1) * cluster] as const
    await writer.write(1, number, one.subarray(...range))
    await writer.write(2, 129 - number, two.subarray((129 - number) * cluster).subarray(0, cluster))
  }
  await writer.closeStream(1)
  await writer.closeStream(2)
  await writer.close()
  const read = await readArchive(sink.bytes)
  expect(read.get('one')!.equals(one)).toBe(true)
  expect(read.get('two')!.equals(two)).toBe(true)
})

test('254 devices', async () => {
  const devices = Array.from({ length: 254 }, (_, number) => ({
    name: `disk${number}`,
    content: Buffer.alloc(1 + number * 37, number),
  }))
  const read = await readArchive(await archiveOf(devices))
  expect(read.size).toBe(254)
  for (const { name, content } of devices) expect(read.get(name)!.equals(content)).toBe(true)
})

test('an archive of configuration files alone', async () => {
  const bytes = await archiveOf([], [{ name: 'a', data: Buffer.from('b') }])
  expect((await readArchive(bytes)).size).toBe(0)
})

describe('damage is found', () => {
  const small = [{ name: 'disk', content: patternedDisk(4 * cluster + 100, 9) }]

  test('any flipped byte, sampled by seed', async () => {
    const whole = await archiveOf(small)
    const random = new Random(runSeed)
    for (let round = 0; round < 60; round++) {
      const bytes = Buffer.from(whole)
      const at = random.below(bytes.length)
      bytes[at] ^= 1 + random.below(255)
      await expect(
        readArchive(bytes),
        `VARVE_SEED=${runSeed}: byte ${at} of ${bytes.length}`,
      ).rejects.toMatchObject({ name: 'BlockError' })
    }
  })

  test.each([true, false])('any truncation; with extensions: %s', async (extensions) => {
    const whole = await archiveOf(small, [], { extensions })
    const random = new Random(1)
    const lengths = Array.from({ length: 40 }, () => random.below(whole.length))
    for (let length = 12_288; length < whole.length; length += 512) lengths.push(length)
    for (const length of lengths) {
      await expect(readArchive(whole.subarray(0, length)), `${length}`).rejects.toMatchObject({
        code:
          length < 12_288 ? expect.stringMatching('CORRUPT_IMAGE|NOT_RECOGNISED') : 'CORRUPT_IMAGE',
      })
    }
  })

  test('bytes behind the last extent', async () => {
    const whole = await archiveOf(small)
    await expect(readArchive(Buffer.concat([whole, Buffer.alloc(1)]))).rejects.toEqual(corruptImage)
    await expect(readArchive(Buffer.concat([whole, Buffer.alloc(512)]))).rejects.toEqual(
      corruptImage,
    )
  })

  test('an extent of another archive', async () => {
    const [one, two] = [await archiveOf(small), await archiveOf(small)]
    two.copy(one, 12_800, 12_800)
    await expect(readArchive(one)).rejects.toThrow('belongs to another archive')
  })

  test('an extent that comes twice, as after a copy that stuttered', async () => {
    const whole = await archiveOf(small, [], { extensions: false })
    const extent = whole.subarray(12_800)
    await expect(readArchive(Buffer.concat([whole, extent]))).rejects.toThrow('for the second time')
  })

  test('the index of another archive', async () => {
    const uuid = Buffer.alloc(16, 1)
    const one = await archiveOf(small, [], { uuid, ctime: 1 })
    const content = Buffer.from(small[0].content)
    content[content.findIndex((byte) => byte > 1)] ^= 1
    const two = await archiveOf([{ name: 'disk', content }], [], { uuid, ctime: 1 })
    const mixed = Buffer.concat([one.subarray(0, -512), two.subarray(-512)])
    await expect(readArchive(mixed)).rejects.toThrow('contradicts the archive')
  })
})

describe('hostile headers', () => {
  const base = () => archiveOf([{ name: 'disk', content: Buffer.alloc(cluster, 1) }])

  test.each<[string, (bytes: Buffer) => void, string, string]>([
    ['a magic of something else', (b) => b.fill(0, 0, 4), 'NOT_RECOGNISED', 'not a VMA archive'],
    ['version 2', (b) => b.writeUInt32BE(2, 4), 'UNSUPPORTED', 'VMA version 2'],
    ['a header of 4 GB', (b) => b.writeUInt32BE(2 ** 32 - 512, 56), 'CORRUPT_IMAGE', 'claims'],
    ['an odd header size', (b) => b.writeUInt32BE(12_801, 56), 'CORRUPT_IMAGE', 'multiple of 512'],
    [
      'a blob table of 4 GB',
      (b) => b.writeUInt32BE(2 ** 32 - 1, 52),
      'CORRUPT_IMAGE',
      'blob table',
    ],
    ['a blob table in front', (b) => b.writeUInt32BE(100, 48), 'CORRUPT_IMAGE', 'blob table'],
    ['a device of 2^64 - 1 bytes', (b) => b.fill(0xff, 4136, 4144), 'CORRUPT_IMAGE', 'claims 1844'],
    ['a device of 512 TiB', (b) => b.writeUInt16BE(2, 4136), 'CORRUPT_IMAGE', 'claims 5629'],
    ['a device without a name', (b) => b.writeUInt32BE(0, 4128), 'CORRUPT_IMAGE', 'device 1 has'],
    ['a name outside', (b) => b.writeUInt32BE(9999, 4128), 'CORRUPT_IMAGE', 'outside the blob'],
    ['a name without an end', (b) => b.fill(65, 12_288 + 3, 12_800), 'CORRUPT_IMAGE', 'no end'],
    ['device 255', (b) => b.writeUInt32BE(1, 4096 + 255 * 32), 'CORRUPT_IMAGE', 'device 255'],
    ['a config without data', (b) => b.writeUInt32BE(1, 2044), 'CORRUPT_IMAGE', 'not both'],
    ['a time beyond 2^53', (b) => b.writeUInt8(0x7f, 24), 'CORRUPT_IMAGE', '2^53'],
  ])('%s', async (_, change, code, message) => {
    const bytes = await base()
    change(bytes)
    if (bytes.readUInt32BE(56) <= bytes.length) resealHeader(bytes)
    const reading = readArchive(bytes)
    await expect(reading).rejects.toMatchObject({ code, offset: expect.any(Number) })
    await expect(reading).rejects.toThrow(message)
  })

  test.each<[string, (extent: Buffer) => void, string]>([
    ['a reserved half-word', (e) => e.writeUInt16BE(1, 4), 'reserved'],
    ['a wrong block count', (e) => e.writeUInt16BE(17, 6), 'counts 17 blocks'],
    ['an unknown device', (e) => e.writeUInt8(9, 43), 'names device 9'],
    ['a cluster behind the end', (e) => e.writeUInt32BE(1, 44), 'behind its end'],
    ['a missing checksum', (e) => e.fill(0, 504, 512), 'no checksum'],
  ])('an extent with %s', async (_, change, message) => {
    const bytes = await base()
    change(bytes.subarray(12_800))
    resealExtent(bytes, 12_800)
    await expect(readArchive(bytes)).rejects.toThrow(message)
  })

  test('blocks behind the end of a device', async () => {
    const bytes = await archiveOf([{ name: 'disk', content: Buffer.alloc(5000, 1) }])
    bytes.writeUInt16BE(0b101, 12_800 + 40)
    resealExtent(bytes, 12_800)
    await expect(readArchive(bytes)).rejects.toThrow("blocks behind the end of 'disk'")
  })

  test('a device of 256 TiB takes no memory, only its clusters do', async () => {
    const bytes = await base()
    bytes.writeBigUInt64BE(2n ** 48n, 4136)
    resealHeader(bytes)
    await using reader = await VmaReader.open(memorySource(bytes, false))
    const before = process.memoryUsage().arrayBuffers
    const reading = (async () => {
      for await (const _ of reader.extents());
    })()
    await expect(reading).rejects.toThrow('1 of 4294967296 clusters, number 1 is missing')
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(32e6)
  })
})

test('a vmstate out of sequence is found', async () => {
  const content = Buffer.alloc(2 * cluster, 3)
  const bytes = await archiveOf([{ name: 'vmstate', content, size: 1 }])
  bytes.writeUInt32BE(1, 12_800 + 44)
  bytes.writeUInt32BE(0, 12_800 + 52)
  resealExtent(bytes, 12_800)
  await expect(readArchive(bytes)).rejects.toThrow('cluster 1 of the vmstate, not 0')
})

test('an extent of 59 clusters, which other writers may make, is read', async () => {
  const content = Buffer.alloc(59 * cluster)
  const bytes = await archiveOf([{ name: 'disk', content }], [], { extensions: false })
  const joined = Buffer.from(bytes.subarray(0, 12_800 + 512))
  bytes.copy(joined, 12_800 + 504, 12_800 + 512 + 40, 12_800 + 512 + 48)
  resealExtent(joined, 12_800)
  expect((await readArchive(joined)).get('disk')!.equals(content)).toBe(true)
})
