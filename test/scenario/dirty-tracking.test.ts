/** What a node's dirty bitmaps, and jobs that follow it, are told of. */
import { expect, test } from 'vitest'
import { DirtyBitmap } from '../../src/bitmap/dirty-bitmap.ts'
import { KiB, MiB } from '../../src/bytes/range.ts'
import { drivers } from '../../src/drivers.ts'
import { Graph } from '../../src/graph/graph.ts'
import type { BlockNode } from '../../src/graph/node.ts'
import { UnstableMemory } from '../../src/protocol/unstable-memory/unstable-memory.ts'
import { GatedLayer } from '../support/layers.ts'

const size = MiB

async function setUp() {
  const graph = new Graph({ drivers })
  const below = new UnstableMemory({ size })
  const { node, layer } = await graph.add(
    'test',
    { 'node-name': 'disk', discard: 'unmap' },
    async () => new GatedLayer(below),
  )
  const guest = graph.attach(node, {
    description: 'a guest',
    uses: ['consistentRead', 'write', 'writeUnchanged', 'resize'],
  })
  return { graph, node, guest, layer, faults: below.faults }
}

function addBitmap(node: BlockNode, name = 'b0', enabled = true): DirtyBitmap {
  const bitmap = new DirtyBitmap({ name, granularity: 4 * KiB, size: node.size, enabled })
  node.bitmaps.add(bitmap)
  return bitmap
}

const dirty = (bitmap: DirtyBitmap) =>
  [...bitmap.runs()].map(({ offset, length }) => [offset / KiB, length / KiB])

test('writes, zeroes and discards are recorded; reads and unchanged data are not', async () => {
  const { graph, node, guest } = await setUp()
  const bitmap = addBitmap(node)
  const off = addBitmap(node, 'off', false)
  await guest.write(0, Buffer.alloc(512, 1))
  await guest.writeZeroes(16 * KiB, 4096)
  await guest.discard(32 * KiB, 4096)
  await guest.read(48 * KiB, Buffer.alloc(512))
  await guest.write(64 * KiB, Buffer.alloc(512, 1), { unchanged: true })
  await guest.flush()
  expect(dirty(bitmap)).toEqual([
    [0, 4],
    [16, 4],
    [32, 4],
  ])
  expect(off.count).toBe(0)
  await graph[Symbol.asyncDispose]()
})

test('what failed counts as changed', async () => {
  const { graph, node, guest, faults } = await setUp()
  const bitmap = addBitmap(node)
  faults.inject({ on: 'write' })
  await expect(async () => guest.write(8 * KiB, Buffer.alloc(512, 1))).rejects.toThrow()
  expect(dirty(bitmap)).toEqual([[8, 4]])
  await graph[Symbol.asyncDispose]()
})

test('a bitmap that is added while a write is under way has it', async () => {
  const { graph, node, guest, layer } = await setUp()
  layer.close()
  const write = guest.write(0, Buffer.alloc(512, 1))
  const bitmap = addBitmap(node)
  layer.open()
  await write
  expect(dirty(bitmap)).toEqual([[0, 4]])
  await graph[Symbol.asyncDispose]()
})

test('who waits for a request finds it recorded', async () => {
  const { graph, node, guest, layer } = await setUp()
  const bitmap = addBitmap(node)
  layer.close()
  const write = guest.write(0, Buffer.alloc(512, 1))
  const seen = graph.drained([node], () => dirty(bitmap))
  layer.open()
  expect(await seen).toEqual([[0, 4]])
  await write
  await graph[Symbol.asyncDispose]()
})

test('bitmaps follow the size; trackers are told until they stop', async () => {
  const { graph, node, guest } = await setUp()
  const bitmap = addBitmap(node)
  const told: unknown[] = []
  const stop = node.bitmaps.track({
    mark: (offset, length) => told.push([offset, length]),
    resize: (to) => told.push(to),
  })
  await guest.write(size - 512, Buffer.alloc(512, 1))
  await guest.truncate(size / 2)
  expect(bitmap.size).toBe(size / 2)
  stop()
  await guest.write(0, Buffer.alloc(512, 1))
  expect(told).toEqual([[size - 512, 512], size / 2])
  expect(dirty(bitmap)).toEqual([[0, 4]])
  await graph[Symbol.asyncDispose]()
})
