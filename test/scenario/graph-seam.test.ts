/** The seam: requests of any alignment on layers that have one, flushes, and what is counted. */
import { setImmediate } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import { drivers } from '../../src/drivers.ts'
import type { Edge } from '../../src/graph/edge.ts'
import type { Graph } from '../../src/graph/graph.ts'
import { GatedLayer, SlowLayer } from '../support/layers.ts'
import { Random, seedNote } from '../support/random.ts'
import { attach, filterOn, memory, newGraph, size } from '../support/small-graph.ts'

describe('the seam', () => {
  const alignments = [512, 4096]
  for (const alignment of alignments) {
    for (const maxTransfer of [alignment, 64 * 1024]) {
      const title = `alignment ${alignment}, transfers up to ${maxTransfer}`

      test(`${title}: any request comes to what a plain array has (${seedNote})`, async () => {
        await using graph = newGraph()
        const edge = await alignedDisk(graph, alignment, maxTransfer)
        const random = new Random()
        const model = new Uint8Array(size)
        for (let round = 0; round < 150; round++) {
          await randomRequest(edge, model, random, 0, size)
        }
        await expectContent(edge, model)
      })

      test(`${title}: neighbours do not disturb each other (${seedNote})`, async () => {
        await using graph = newGraph()
        const edge = await alignedDisk(graph, alignment, maxTransfer)
        const model = new Uint8Array(size)
        // Borders that lie inside blocks: every block belongs to several of these users.
        const borders = Array.from({ length: 17 }, (_, at) => Math.min(size, at * 1000 + (at % 3)))
        const seeds = new Random()
        const users = borders.slice(1).map(async (end, index) => {
          const random = new Random(seeds.below(2 ** 31))
          for (let round = 0; round < 40; round++) {
            await randomRequest(edge, model, random, borders[index], end)
          }
        })
        await Promise.all(users)
        await expectContent(edge, model)
      })
    }
  }

  test('a range outside the disk is refused before anything is done', async () => {
    await using graph = newGraph()
    const edge = attach(graph, await memory(graph))
    const bytes = new Uint8Array(2)
    const outside = expect.objectContaining({ code: 'OUT_OF_RANGE', offset: size - 1 })
    expect(() => edge.read(size - 1, bytes)).toThrow(outside)
    expect(() => edge.write(size - 1, bytes)).toThrow(outside)
    expect(() => edge.writeZeroes(size - 1, 2)).toThrow(outside)
    expect(() => edge.discard(size - 1, 2)).toThrow(outside)
    for (const offset of [-1, 0.5, Number.NaN, 2 ** 53]) {
      expect(() => edge.read(offset, bytes)).toThrow(
        expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
      )
    }
  })

  test('zeroes that cannot all be made the fast way are not made at all', async () => {
    await using graph = newGraph()
    const edge = await alignedDisk(graph, 4096, 64 * 1024)
    const model = new Uint8Array(size).fill(9)
    await edge.write(0, model)
    const slow = { fastOnly: true }
    for (const [offset, length] of [
      [0, 8192 + 1],
      [1, 8192],
      [4096, 100],
    ]) {
      const zeroing = async () => await edge.writeZeroes(offset, length, slow)
      await expect(zeroing()).rejects.toMatchObject({ code: 'UNSUPPORTED', offset })
    }
    await expectContent(edge, model)
  })

  test('a flush reaches the layer for a write that ended after the flush before', async () => {
    await using graph = newGraph()
    const { node, layer } = await filterOn(
      graph,
      await memory(graph),
      'gated',
      (next) => new GatedLayer(next),
    )
    const edge = attach(graph, node)
    await edge.write(512, new Uint8Array(1))
    layer.close()
    const write = edge.write(0, new Uint8Array(1)) as Promise<void>
    await edge.flush()
    layer.open()
    await write
    await edge.flush()
    expect(layer.arrived.filter((name) => name === 'flush')).toHaveLength(2)
    await edge.flush()
    expect(layer.arrived.filter((name) => name === 'flush')).toHaveLength(2)
  })
})

test('compressed writes are flushed, counted and drained like others', async () => {
  await using graph = newGraph()
  const file = await memory(graph, 'file')
  const qcow2 = drivers.find(({ name }) => name === 'qcow2')!.creator!
  const { signal } = new AbortController()
  const edge = attach(graph, file)
  await qcow2.create(qcow2.parse({ size: 1024 * 1024 }), { file: edge, signal })
  await edge.flush()
  await edge[Symbol.asyncDispose]()
  const image = await graph.open({ driver: 'qcow2', file: 'file' })
  const user = attach(graph, image)
  const flushed = file.statistics.flush.operations
  const held: (Promise<void> | void)[] = []
  const unit = user.compressed!.unit
  await graph.drained([image], async () => {
    const io = { signal, fua: false, unchanged: false }
    held.push(user.compressed!.write(0, new Uint8Array(unit).fill(1), io))
    await setImmediate()
    expect(image.statistics.write.operations).toBe(0)
  })
  await Promise.all(held)
  expect(image.statistics.write).toMatchObject({ operations: 1, bytes: unit })
  await user.flush()
  expect(file.statistics.flush.operations).toBeGreaterThan(flushed)
  const outside = expect.objectContaining({ code: 'OUT_OF_RANGE' })
  const io = { signal, fua: false, unchanged: false }
  expect(() => user.compressed!.write(1024 * 1024, new Uint8Array(unit), io)).toThrow(outside)
})

async function alignedDisk(graph: Graph, alignment: number, maxTransfer: number): Promise<Edge> {
  const disk = await graph.open({ driver: 'memory', size, 'node-name': 'disk' })
  const limits = { alignment, zeroAlignment: alignment, discardAlignment: alignment, maxTransfer }
  const slow = await filterOn(graph, disk, 'slow', (next) => new SlowLayer(next, limits))
  return attach(graph, slow.node)
}

/** One request inside [`start`, `end`), on the disk and on the model; reads are compared. */
async function randomRequest(
  edge: Edge,
  model: Uint8Array,
  random: Random,
  start: number,
  end: number,
): Promise<void> {
  const [at, length] = random.range(end - start, 1, 20_000)
  const offset = start + at
  const kind = random.pick(['read', 'write', 'write', 'zero'])
  if (kind === 'write') {
    const source = random.bytes(length)
    await edge.write(offset, source, { fua: random.chance(0.2) })
    model.set(source, offset)
  } else if (kind === 'zero') {
    await edge.writeZeroes(offset, length, { mayUnmap: random.chance(0.5) })
    model.fill(0, offset, offset + length)
  } else {
    const target = new Uint8Array(length)
    await edge.read(offset, target)
    const expected = model.subarray(offset, offset + length)
    if (Buffer.compare(target, expected) !== 0) throw new Error(`${offset}+${length} differs`)
  }
}

async function expectContent(edge: Edge, model: Uint8Array): Promise<void> {
  const all = new Uint8Array(model.length)
  await edge.read(0, all)
  expect(Buffer.compare(all, model)).toBe(0)
}
