import { describe, expect, test } from 'vitest'
import {
  archiveOf,
  MemorySink,
  memoryDisk,
  memorySource,
  patternedDisk,
  readArchive,
} from '../../../test/support/vma.ts'
import { neverAborted } from '../../block/layer.ts'
import { VmaReader } from './reader.ts'
import { type RestoreTarget, restoreArchive, type StateTarget } from './restore.ts'
import { storeDevice } from './store-device.ts'
import { VmaWriter } from './writer.ts'

const cluster = 65_536
const io = { signal: neverAborted }

describe('storing a disk', () => {
  test.each([
    ['of whole clusters', 40 * cluster, cluster],
    ['that ends in the middle of a block', 33 * cluster + 1000, 4096],
    ['smaller than a block', 10, cluster],
    ['whose status has a fine grain', 64 * cluster, 512],
    ['whose status has a coarse grain', 64 * cluster, 1024 * 1024],
  ])('%s', async (_, size, granularity) => {
    const content = patternedDisk(size, size)
    content.fill(0, Math.min(size, 5 * cluster + 100), Math.min(size, 30 * cluster - 100))
    const sink = new MemorySink()
    await using writer = await VmaWriter.open(sink)
    const id = writer.registerStream('disk', size)
    let stored = 0
    await storeDevice(writer, id, memoryDisk(content, granularity), io, ({ bytes }) => {
      stored += bytes
    })
    await writer.close()
    expect(stored).toBe(size)
    expect((await readArchive(sink.bytes)).get('disk')!.equals(content)).toBe(true)
  })

  test('does not read what is known to be zero', async () => {
    const content = Buffer.alloc(64 * cluster)
    content.fill(1, 10 * cluster, 11 * cluster)
    const disk = memoryDisk(content)
    let read = 0
    const counted = {
      ...disk,
      read: async (offset: number, target: Uint8Array) => {
        read += target.length
        await disk.read(offset, target, io)
      },
    }
    await using writer = await VmaWriter.open(new MemorySink())
    await storeDevice(writer, writer.registerStream('disk', content.length), counted, io)
    expect(read).toBe(cluster)
  })

  test('stops at a read error, which the caller gets', async () => {
    const failing = {
      ...memoryDisk(Buffer.alloc(64 * cluster, 1)),
      read: async (offset: number) => {
        if (offset >= 32 * cluster) throw new Error('bad sector')
      },
    }
    const sink = new MemorySink()
    await using writer = await VmaWriter.open(sink)
    const id = writer.registerStream('disk', failing.size)
    await expect(storeDevice(writer, id, failing, io)).rejects.toThrow('bad sector')
  })
})

/** A target in memory that starts as garbage, to see what is written. */
function garbage(size: number, zeroes: boolean) {
  const content = Buffer.alloc(size, 0xee)
  const target: StateTarget = {
    write: async (offset, data) => content.set(data, offset),
    writeZeroes: zeroes
      ? async (offset, length) => void content.fill(0, offset, offset + length)
      : undefined,
    setLength: async (length) => {
      lengths.push(length)
    },
  }
  const lengths: number[] = []
  return { content, target, lengths }
}

describe('restoring', () => {
  const disks = [
    { name: 'one', content: patternedDisk(61 * cluster + 777, 1) },
    { name: 'two', content: patternedDisk(5 * cluster, 2) },
  ]

  test.each([true, false])('all devices, zeroes written; seekable: %s', async (seekable) => {
    const bytes = await archiveOf(disks)
    await using reader = await VmaReader.open(memorySource(bytes, seekable))
    const outputs = disks.map(({ content }) => garbage(content.length, true))
    const targets = new Map<number, RestoreTarget>(
      outputs.map(({ target }, index) => [index + 1, target]),
    )
    let bytesSeen = 0
    await restoreArchive(reader, {
      targets,
      onProgress: ({ bytes }) => {
        bytesSeen += bytes
      },
    })
    for (const [index, { content }] of outputs.entries()) {
      expect(content.equals(disks[index].content)).toBe(true)
    }
    expect(bytesSeen).toBe(66 * cluster + 777)
  })

  test('without zeroes only stored blocks are touched', async () => {
    const content = Buffer.alloc(2 * cluster)
    content.fill(5, 4096, 8192)
    await using reader = await VmaReader.open(
      memorySource(await archiveOf([{ name: 'one', content }]), false),
    )
    const output = garbage(content.length, false)
    await restoreArchive(reader, { targets: new Map([[1, output.target]]) })
    expect(output.content.subarray(4096, 8192).every((byte) => byte === 5)).toBe(true)
    expect(output.content.subarray(8192).every((byte) => byte === 0xee)).toBe(true)
  })

  test('neighbouring blocks are written with one call', async () => {
    const content = Buffer.alloc(20 * cluster, 1)
    await using reader = await VmaReader.open(
      memorySource(await archiveOf([{ name: 'one', content }]), false),
    )
    const lengths: number[] = []
    const write = async (_: number, data: Uint8Array) => void lengths.push(data.length)
    await restoreArchive(reader, { targets: new Map([[1, { write }]]) })
    expect(lengths).toEqual([20 * cluster])
  })

  test.each([
    ['the registered size, when the clusters end there', 2 * cluster - 5000, 2, 2 * cluster - 5000],
    ['whole clusters, when it was estimated too small', cluster, 2, 2 * cluster],
    ['whole clusters, when it was estimated too large', 9 * cluster, 2, 2 * cluster],
  ])('a vmstate has %s', async (_, size, clusters, expected) => {
    const content = Buffer.alloc(clusters * cluster)
    content.fill(3, 100, 200)
    const bytes = await archiveOf([{ name: 'vmstate', content, size }])
    await using reader = await VmaReader.open(memorySource(bytes, false))
    const { target, content: written, lengths } = garbage(content.length, true)
    await restoreArchive(reader, { targets: new Map(), state: { id: 1, target } })
    expect(lengths).toEqual([expected])
    expect(written.equals(content)).toBe(true)
  })

  test('a vmstate with data behind its estimated size keeps whole clusters', async () => {
    const content = Buffer.alloc(2 * cluster, 1)
    const bytes = await archiveOf([{ name: 'vmstate', content, size: 2 * cluster - 10 }])
    await using reader = await VmaReader.open(memorySource(bytes, false))
    const { target, lengths } = garbage(content.length, true)
    await restoreArchive(reader, { targets: new Map(), state: { id: 1, target } })
    expect(lengths).toEqual([2 * cluster])
  })
})
