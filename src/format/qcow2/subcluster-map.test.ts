import { describe, expect, it } from 'vitest'
import { newImage, openImage } from '../../../test/support/qcow2.ts'
import { Filter } from '../../block/filter.ts'
import {
  type BlockLayer,
  type Completion,
  type Io,
  plainIo,
  plainWriteIo,
  plainZeroIo,
  type WriteIo,
} from '../../block/layer.ts'
import { MemoryLayer } from '../../protocol/memory.ts'

const KiB = 1024
const size = 1024 * KiB
const unmapIo = { ...plainZeroIo, mayUnmap: true }

/** Notes how much is asked for at a time. */
class Counting extends Filter {
  reads: number[] = []
  writes: number[] = []

  override read(offset: number, target: Uint8Array, io: Io): Completion {
    this.reads.push(target.length)
    return this.next.read(offset, target, io)
  }

  override write(offset: number, source: Uint8Array, io: WriteIo): Completion {
    this.writes.push(source.length)
    return this.next.write(offset, source, io)
  }
}

async function overlay(options: Readonly<Record<string, unknown>> = {}) {
  const named = { size, extended_l2: 'on', backing_file: 'base', ...options }
  const file = new Counting(await newImage(named))
  const backing = new Counting(MemoryLayer.of(new Uint8Array(size).fill(0xbb)))
  return { ...(await openImage(file, {}, backing)), file, backing }
}

async function kinds(layer: BlockLayer, end: number): Promise<[string, number][]> {
  const found: [string, number][] = []
  for (let at = 0; at < end; ) {
    const run = await layer.extentAt(at, end - at, plainIo)
    found.push([run.kind, run.length / KiB])
    at += run.length
  }
  return found
}

describe('the map of an image with subclusters', () => {
  it('copies no more than the subclusters that a write touches', async () => {
    const { layer, file, backing } = await overlay()
    await layer.read(0, new Uint8Array(512), plainIo)
    file.writes = []
    backing.reads = []
    // Subclusters have 2 KiB: one read of the two at the ends together, one write.
    await layer.write(65 * KiB + 512, new Uint8Array(2 * KiB), plainWriteIo)
    expect(file.writes).toEqual([4 * KiB])
    expect(backing.reads.reduce((sum, length) => sum + length)).toBeLessThanOrEqual(4 * KiB)
    expect(await kinds(layer, 128 * KiB)).toEqual([
      ['backing', 64],
      ['data', 4],
      ['backing', 60],
    ])
  })

  it('does not copy where a write fits', async () => {
    const { layer, file, backing } = await overlay()
    for (let at = 0; at < 64 * KiB; at += 4 * KiB) {
      await layer.write(at, new Uint8Array(4 * KiB), plainWriteIo)
    }
    expect(backing.reads).toEqual([])
    expect(file.writes.slice(-16)).toEqual(new Array(16).fill(4 * KiB))
    expect(await kinds(layer, 64 * KiB)).toEqual([['data', 64]])
  })

  it('writes over several clusters at once', async () => {
    const { layer, file } = await overlay()
    await layer.write(62 * KiB, new Uint8Array(132 * KiB), plainWriteIo)
    expect(file.writes).toEqual([132 * KiB])
    expect(await kinds(layer, 256 * KiB)).toEqual([
      ['backing', 62],
      ['data', 132],
      ['backing', 62],
    ])
  })

  it('zeroes subclusters, and gives a cluster back when all of it is zero', async () => {
    const { layer, image } = await overlay()
    await layer.write(0, new Uint8Array(64 * KiB).fill(1), plainWriteIo)
    await layer.writeZeroes(4 * KiB, 8 * KiB, unmapIo)
    expect(await kinds(layer, 64 * KiB)).toEqual([
      ['data', 4],
      ['zero', 8],
      ['data', 52],
    ])
    await layer.writeZeroes(0, 4 * KiB, unmapIo)
    await layer.writeZeroes(12 * KiB, 52 * KiB, unmapIo)
    expect(await layer.extentAt(0, 64 * KiB, plainIo)).toMatchObject({
      kind: 'zero',
      allocated: false,
    })
    await layer.flush(plainIo)
    expect(await image.check('none')).toMatchObject({ allocatedClusters: 0, leaks: 0 })
  })

  it('has a preallocated overlay show its backing file', async () => {
    const { layer, backing } = await overlay({ preallocation: 'metadata' })
    const bytes = new Uint8Array(size)
    await layer.read(0, bytes, plainIo)
    expect(bytes.every((byte) => byte === 0xbb)).toBe(true)
    backing.reads = []
    await layer.write(0, new Uint8Array(256 * KiB), plainWriteIo)
    expect(backing.reads).toEqual([])
  })

  it('zeroes a compressed cluster that the end of the disk cuts off, but no part of one', async () => {
    const file = await newImage({ size: 65 * KiB, extended_l2: 'on' })
    const { layer } = await openImage(file)
    const { unit, write } = layer.compressed!
    await write(0, new Uint8Array(unit).fill(1), plainWriteIo)
    await write(unit, new Uint8Array(KiB).fill(2), plainWriteIo)
    await layer.writeZeroes(2 * KiB, 2 * KiB, unmapIo)
    await layer.writeZeroes(64 * KiB, KiB, unmapIo)
    const bytes = new Uint8Array(65 * KiB)
    await layer.read(0, bytes, plainIo)
    const expected = new Uint8Array(65 * KiB).fill(1, 0, 64 * KiB).fill(0, 2 * KiB, 4 * KiB)
    expect(Buffer.compare(bytes, expected)).toBe(0)
    await layer[Symbol.asyncDispose]()
  })
})
