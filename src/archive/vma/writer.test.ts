import { createHash } from 'node:crypto'
import { crc32 } from 'node:zlib'
import { describe, expect, test } from 'vitest'
import { archiveOf, MemorySink, patternedDisk } from '../../../test/support/vma.ts'
import { type VmaWriteResult, VmaWriter } from './writer.ts'

const cluster = 65_536

/** MD5 over `bytes` with the 16 bytes at `field` zeroed: computed without the code under test. */
function md5Without(bytes: Buffer, field: number): string {
  const copy = Buffer.from(bytes)
  copy.fill(0, field, field + 16)
  return createHash('md5').update(copy).digest('hex')
}

test('the header of an archive, byte by byte', async () => {
  const uuid = Buffer.from('000102030405060708090a0b0c0d0e0f', 'hex')
  const archive = await archiveOf(
    [{ name: 'drive-scsi0', content: Buffer.alloc(cluster) }],
    [{ name: 'etc/qemu-server.conf', data: Buffer.from('cores: 2\n') }],
    { uuid, ctime: 1_795_000_000 },
  )

  expect(archive.toString('latin1', 0, 4)).toBe('VMA\0')
  expect(archive.readUInt32BE(4)).toBe(1)
  expect(archive.subarray(8, 24)).toEqual(uuid)
  expect(archive.readBigInt64BE(24)).toBe(1_795_000_000n)
  expect(archive.readUInt32BE(48)).toBe(12_288)
  const headerSize = archive.readUInt32BE(56)
  expect(headerSize).toBe(12_288 + 512)
  expect(archive.toString('hex', 32, 48)).toBe(md5Without(archive.subarray(0, headerSize), 32))

  // Blob table: unused byte, name, data, device name; each behind a little-endian length.
  const blobs = archive.subarray(12_288, headerSize)
  expect(archive.readUInt32BE(2044)).toBe(1)
  expect(blobs.toString('latin1', 1, 21)).toBe('\x11\0qemu-server.conf\0\x09')
  expect(archive.readUInt32BE(3068)).toBe(20)
  expect(blobs.toString('latin1', 20, 31)).toBe('\x09\0cores: 2\n')
  expect(archive.readUInt32BE(4096 + 32)).toBe(31)
  expect(archive.readBigUInt64BE(4096 + 32 + 8)).toBe(65_536n)
  expect(blobs.toString('latin1', 31, 45)).toBe('\x0c\0drive-scsi0\0')
  expect(archive.readUInt32BE(52)).toBe(45)
})

test('an extent holds the non-zero blocks of each cluster, in order', async () => {
  const content = Buffer.alloc(2 * cluster + 5000)
  content.fill(0xaa, 4096, 8192) // cluster 0, block 1
  content.fill(0xbb, 15 * 4096, 16 * 4096) // cluster 0, block 15
  content.fill(0xcc, 2 * cluster + 4096) // cluster 2, its second block, cut off by the end
  const archive = await archiveOf([{ name: 'disk', content }])
  const extent = archive.subarray(12_288 + 512)

  expect(extent.toString('latin1', 0, 4)).toBe('VMAE')
  expect(extent.readUInt16BE(4)).toBe(0)
  expect(extent.readUInt16BE(6)).toBe(3)
  expect(extent.subarray(8, 24)).toEqual(archive.subarray(8, 24))
  expect(extent.toString('hex', 24, 40)).toBe(md5Without(extent.subarray(0, 512), 24))
  const slots = [0, 1, 2, 3, 57].map((slot) => extent.toString('hex', 40 + slot * 8, 48 + slot * 8))
  expect(slots).toEqual([
    '8002000100000000',
    '0000000100000001',
    '0002000100000002',
    '0000000000000000',
    '0000000000000000',
  ])
  const data = extent.subarray(512, 512 + 3 * 4096)
  expect(data.subarray(0, 4096).every((byte) => byte === 0xaa)).toBe(true)
  expect(data.subarray(4096, 8192).every((byte) => byte === 0xbb)).toBe(true)
  expect(data.subarray(8192, 8192 + 904).every((byte) => byte === 0xcc)).toBe(true)
  expect(data.subarray(8192 + 904).every((byte) => byte === 0)).toBe(true)
  // The slot that other writers leave free: mark, algorithm, device 0, CRC-32 of the data.
  expect(extent.toString('hex', 40 + 58 * 8, 512)).toBe(
    `43530100${crc32(data).toString(16).padStart(8, '0')}`,
  )
})

test('an archive without extensions has free slots and ends with its data', async () => {
  const content = Buffer.alloc(59 * cluster, 1)
  const archive = await archiveOf([{ name: 'disk', content }], [], { extensions: false })
  expect(archive.length).toBe(12_288 + 512 + 2 * 512 + content.length)
  expect(archive.subarray(12_800 + 504, 12_800 + 512).every((byte) => byte === 0)).toBe(true)
  expect(archive.subarray(60, 2044).every((byte) => byte === 0)).toBe(true)
})

test('a write reports the bytes of the disk and how many are zero', async () => {
  await using writer = await VmaWriter.open(new MemorySink())
  const id = writer.registerStream('disk', cluster + 5000)
  const half = Buffer.alloc(cluster)
  half.fill(7, cluster / 2)
  expect(writer.write(id, 0, half)).toEqual({ bytes: cluster, zeroBytes: cluster / 2 })
  expect(writer.write(id, 1, Buffer.alloc(5000))).toEqual({ bytes: 5000, zeroBytes: 5000 })
  expect(writer.status.streams).toEqual([
    {
      id: 1,
      name: 'disk',
      size: cluster + 5000,
      transferred: cluster + 5000,
      zeroBytes: cluster / 2 + 5000,
      finished: false,
    },
  ])
})

test('bytes behind the end of a device are not stored', async () => {
  const sink = new MemorySink()
  await using writer = await VmaWriter.open(sink, { extensions: false })
  const id = writer.registerStream('disk', 5000)
  await writer.write(id, 0, Buffer.alloc(cluster, 9))
  await writer.closeStream(id)
  await writer.close()
  const extent = sink.bytes.subarray(12_800)
  expect(extent.readUInt16BE(40)).toBe(0b11)
  expect(extent.subarray(512 + 5000).every((byte) => byte === 0)).toBe(true)
})

test('a vmstate keeps its zero blocks and accepts nothing out of sequence', async () => {
  const sink = new MemorySink()
  await using writer = await VmaWriter.open(sink, { extensions: false })
  const id = writer.registerStream('vmstate', 1000)
  writer.write(id, 0, Buffer.alloc(cluster))
  writer.write(id, 1, undefined)
  expect(() => writer.write(id, 3, undefined)).toThrow('vmstate: cluster 3 is out of sequence')
})

describe('refused', () => {
  const sixteen = 16 * cluster

  test('registering after the first write', async () => {
    await using writer = await VmaWriter.open(new MemorySink())
    writer.registerStream('a', cluster)
    await writer.write(1, 0, undefined)
    expect(() => writer.registerStream('b', cluster)).toThrow(
      expect.objectContaining({ code: 'BUSY' }),
    )
    expect(() => writer.registerConfig('c', Buffer.alloc(1))).toThrow('header is written')
  })

  test.each([
    ['size 0', 'a', 0],
    ['a size beyond 32 bits of clusters', 'a', 2 ** 48 + 1],
    ['a name with a slash', '../a', cluster],
    ['a name twice', 'first', cluster],
  ])('a device of %s', async (_, name, size) => {
    await using writer = await VmaWriter.open(new MemorySink())
    writer.registerStream('first', cluster)
    expect(() => writer.registerStream(name, size)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
    )
  })

  test('the 255th device', async () => {
    await using writer = await VmaWriter.open(new MemorySink())
    for (let id = 1; id <= 254; id++) expect(writer.registerStream(`d${id}`, 1)).toBe(id)
    expect(() => writer.registerStream('d255', 1)).toThrow('more than 254 devices')
  })

  test.each([
    ['an unknown device', 2, 0],
    ['a cluster behind the end', 1, 16],
    ['a negative cluster', 1, -1],
    ['a cluster twice', 1, 0],
  ])('writing %s, and from then on everything', async (_, id, number) => {
    await using writer = await VmaWriter.open(new MemorySink())
    writer.registerStream('a', sixteen)
    writer.write(1, 0, undefined)
    expect(() => writer.write(id, number, undefined)).toThrow()
    const { error } = writer.status
    expect(error).toMatchObject({ code: 'INVALID_ARGUMENT' })
    expect(() => writer.write(1, 5, undefined)).toThrow(error as Error)
    await expect(writer.close()).rejects.toBe(error)
  })

  test('a config that is named like a directory, or is too large', async () => {
    await using writer = await VmaWriter.open(new MemorySink())
    expect(() => writer.registerConfig('x/..', Buffer.alloc(1))).toThrow('cannot name')
    expect(() => writer.registerConfig('x', Buffer.alloc(65_536))).toThrow('65535')
  })

  test('closing while a device is open or incomplete; the sink is aborted', async () => {
    const sink = new MemorySink()
    const writer = await VmaWriter.open(sink)
    writer.registerStream('a', sixteen)
    await writer.write(1, 0, undefined)
    expect(await writer.closeStream(1)).toBe(0)
    await expect(writer.close()).rejects.toThrow("'a' is incomplete: 65536 of 1048576 bytes")
    expect(sink.state).toBe('aborted')
  })
})

test('the first error of the sink reaches every caller, and those who wait for room', async () => {
  class FullSink extends MemorySink {
    override async write(bytes: Uint8Array) {
      if (this.parts.length === 3) throw new Error('disk full')
      await super.write(bytes)
    }
  }
  const sink = new FullSink()
  await using writer = await VmaWriter.open(sink)
  const id = writer.registerStream('a', 1000 * cluster)
  const content = Buffer.alloc(cluster, 1)
  const writes = Array.from({ length: 1000 }, async (_, number) =>
    writer.write(id, number, content),
  )
  const results = await Promise.allSettled(writes)
  expect(results.filter(({ status }) => status === 'rejected').length).toBeGreaterThan(0)
  await expect(writer.close()).rejects.toThrow('disk full')
  expect(sink.state).toBe('aborted')
})

test('memory in flight is bounded: a slow sink makes writers wait', async () => {
  const releases: (() => void)[] = []
  class SlowSink extends MemorySink {
    override async write(bytes: Uint8Array) {
      await new Promise<void>((resolve) => releases.push(resolve))
      await super.write(bytes)
    }
  }
  const sink = new SlowSink()
  await using writer = await VmaWriter.open(sink)
  const id = writer.registerStream('a', 800 * cluster)
  const content = Buffer.alloc(cluster, 1)
  const results = Array.from({ length: 800 }, (_, number) => writer.write(id, number, content))
  const first = results.findIndex((result) => result instanceof Promise)
  expect(first).toBe(7 * 58)
  expect(releases.length).toBe(1 + 7)

  const release = setInterval(() => releases.shift()?.(), 0)
  await Promise.all(results)
  await writer.closeStream(id)
  await writer.close()
  clearInterval(release)
  expect(sink.parts.length).toBe(1 + 14 + 1)
})

test('reproducible archives of the same disks are equal, others have uuids of their own', async () => {
  const devices = [{ name: 'disk', content: patternedDisk(10 * cluster, 1) }]
  const [first, second, other] = await Promise.all([
    archiveOf(devices, [], { reproducible: true }),
    archiveOf(devices, [], { reproducible: true }),
    archiveOf(devices, [{ name: 'c', data: Buffer.from('x') }], { reproducible: true }),
  ])
  expect(first.equals(second)).toBe(true)
  expect(first.readBigInt64BE(24)).toBe(0n)
  expect(other.subarray(8, 24).equals(first.subarray(8, 24))).toBe(false)
  const random = await archiveOf(devices)
  expect(random.equals(await archiveOf(devices))).toBe(false)
})

test('disposing an open writer aborts the sink', async () => {
  const sink = new MemorySink()
  {
    await using writer = await VmaWriter.open(sink)
    writer.registerStream('a', cluster)
  }
  expect(sink.state).toBe('aborted')
})

test('background writes leave room in the ring for those that somebody waits for', async () => {
  let letGo = () => {}
  const stuck = new Promise<void>((resolve) => {
    letGo = resolve
  })
  const sink = { write: () => stuck, finish: async () => {}, abort: async () => {} }
  const writer = await VmaWriter.open(sink)
  const clusters = 1000
  const id = writer.registerStream('disk', clusters * cluster)
  const data = Buffer.alloc(cluster, 1)
  const stored: (VmaWriteResult | Promise<VmaWriteResult>)[] = []
  let next = 0
  do stored.push(writer.write(id, next++, data, true))
  while (!(stored.at(-1) instanceof Promise))

  for (let urgent = 0; urgent < 100; urgent++) {
    expect(writer.write(id, next++, data)).not.toBeInstanceOf(Promise)
  }
  letGo()
  await Promise.all(stored)
  while (next < clusters) await writer.write(id, next++, undefined)
  await writer.closeStream(id)
  await writer.close()
})
