/**
 * Incremental backups: a chain of them under a writing guest, what each mode makes of the bitmap
 * when the backup succeeds, fails or is cancelled, and copy-before-write with a bitmap.
 */
import { expect, test } from 'vitest'
import { DirtyBitmap } from '../../src/bitmap/dirty-bitmap.ts'
import { KiB } from '../../src/bytes/range.ts'
import { drivers } from '../../src/drivers.ts'
import type { Edge } from '../../src/graph/edge.ts'
import { Graph } from '../../src/graph/graph.ts'
import type { BlockNode } from '../../src/graph/node.ts'
import { type BackupOptions, startBackup } from '../../src/job/backup.ts'
import { JobTable } from '../../src/job/job-table.ts'
import { UnstableMemory } from '../../src/protocol/unstable-memory/unstable-memory.ts'
import { Random, seedNote } from '../support/random.ts'

const cluster = 64 * KiB
const size = 40 * cluster + 4096

async function setUp() {
  const random = new Random()
  const graph = new Graph({ drivers })
  const jobs = new JobTable()
  const storage = { source: new UnstableMemory({ size }), target: new UnstableMemory({ size }) }
  const add = async (name: 'source' | 'target') =>
    (await graph.add('test', { 'node-name': name }, async () => storage[name])).node
  const source = await add('source')
  const target = await add('target')
  const guest = graph.attach(source, { description: 'a guest', uses: ['consistentRead', 'write'] })
  const bitmap = new DirtyBitmap({ name: 'b0', granularity: 16 * KiB, size })
  source.bitmaps.add(bitmap)
  return { random, graph, jobs, storage, source, target, guest, bitmap }
}

async function scribble(guest: Edge, random: Random, count = 12): Promise<void> {
  for (let step = 0; step < count; step++) {
    const [offset, length] = random.range(size, 512, 150_000)
    if (random.chance(0.2)) await guest.writeZeroes(offset, length)
    else await guest.write(offset, random.bytes(length))
  }
}

async function contentOf(graph: Graph, node: BlockNode): Promise<Buffer> {
  const edge = graph.attach(node, { description: 'the test', uses: ['consistentRead'] })
  const bytes = Buffer.alloc(node.size)
  await edge.read(0, bytes)
  await edge[Symbol.asyncDispose]()
  return bytes
}

test(`each backup of a chain is the disk of its moment (${seedNote})`, async () => {
  const { random, graph, jobs, source, target, guest, bitmap } = await setUp()
  const backup = (sync: BackupOptions['sync']) =>
    startBackup(graph, jobs, { id: 'b', source, target, sync, bitmap, bitmapMode: 'on-success' })
  await scribble(guest, random)
  let moment = await contentOf(graph, source)
  const full = await backup('full')
  await scribble(guest, random)
  await full.done
  expect((await contentOf(graph, target)).equals(moment)).toBe(true)

  for (let round = 0; round < 8; round++) {
    moment = await contentOf(graph, source)
    const dirty = bitmap.count
    const job = await backup('bitmap')
    expect(bitmap.busy).toBeDefined()
    await scribble(guest, random, 5)
    if (random.chance(0.3)) {
      // Given up: the next one copies all of this, too.
      await job.cancel()
      expect(bitmap.count).toBeGreaterThanOrEqual(dirty)
    } else {
      await job.done
      expect((await contentOf(graph, target)).equals(moment)).toBe(true)
    }
    expect(bitmap.busy).toBeUndefined()
    if (random.chance(0.5)) await scribble(guest, random, 3)
  }
  moment = await contentOf(graph, source)
  await (await backup('bitmap')).done
  expect((await contentOf(graph, target)).equals(moment)).toBe(true)
  expect(bitmap.count).toBe(0)
  await graph[Symbol.asyncDispose]()
})

const at = (index: number) => index * cluster
const block = (value: number) => Buffer.alloc(4096, value)
const dirtyClusters = (bitmap: DirtyBitmap) => {
  const found = new Set<number>()
  for (const { offset, length } of bitmap.runs()) {
    for (let to = offset; to < offset + length; to += 16 * KiB) found.add(Math.floor(to / cluster))
  }
  return [...found]
}

// Clusters 3, 5 and 30 are dirty before; the guest writes to 5 and 20 during the backup.
test.each([
  ['on-success', 'succeeds', [5, 20]],
  ['on-success', 'is cancelled', [3, 5, 20, 30]],
  ['on-success', 'fails', [3, 5, 20, 30]],
  ['never', 'succeeds', [3, 5, 20, 30]],
  ['never', 'is cancelled', [3, 5, 20, 30]],
  ['never', 'fails', [3, 5, 20, 30]],
  ['always', 'succeeds', [5, 20]],
  // What was written before it was given up is not copied again; 30 was not reached.
  ['always', 'is cancelled', [5, 20, 30]],
  ['always', 'fails', [5, 20, 30]],
] as const)('bitmap-mode %s when the backup %s', async (bitmapMode, outcome, expected) => {
  const { graph, jobs, storage, source, target, guest, bitmap } = await setUp()
  for (const index of [3, 5, 30]) await guest.write(at(index), block(index))
  if (outcome !== 'succeeds') {
    storage.target.faults.inject({
      on: 'write',
      range: { offset: at(30), length: cluster },
      times: 9,
    })
  }
  const job = await startBackup(graph, jobs, {
    id: 'b',
    source,
    target,
    sync: 'bitmap',
    bitmap,
    bitmapMode,
    onTargetError: outcome === 'is cancelled' ? 'stop' : 'report',
  })
  await guest.write(at(5), block(55))
  await guest.write(at(20), block(20))
  const done = job.done.catch((error) => error)
  if (outcome === 'is cancelled') {
    while (job.status !== 'paused') await new Promise((resolve) => setTimeout(resolve, 1))
    await job.cancel()
  }
  await done
  expect(dirtyClusters(bitmap)).toEqual(expected)
  expect(bitmap.frozen).toBe(false)
  // The next one makes up for it.
  storage.target.faults.clear()
  const moment = await contentOf(graph, source)
  const next = await startBackup(graph, jobs, {
    ...{ id: 'n', source, target, sync: 'bitmap', bitmap, bitmapMode: 'on-success' },
  })
  await next.done
  expect((await contentOf(graph, target)).equals(moment)).toBe(true)
  expect(bitmap.count).toBe(0)
  await graph[Symbol.asyncDispose]()
})

test('a full backup that fails with always leaves what it did not copy', async () => {
  const { graph, jobs, storage, source, target, bitmap, guest } = await setUp()
  for (let index = 0; index < 40; index++) await guest.write(at(index), block(index + 1))
  bitmap.clear()
  storage.target.faults.inject({ on: 'write', range: { offset: at(30), length: cluster } })
  const job = await startBackup(graph, jobs, {
    ...{ id: 'b', source, target, sync: 'full', bitmap, bitmapMode: 'always' },
  })
  await expect(job.done).rejects.toMatchObject({ code: 'IO' })
  expect(dirtyClusters(bitmap)).toContain(30)
  expect(dirtyClusters(bitmap)).not.toContain(0)
  await graph[Symbol.asyncDispose]()
})

test('a bitmap that is busy or disabled: refused, or copied all the same', async () => {
  const { graph, jobs, source, target, guest, bitmap } = await setUp()
  await guest.write(0, block(1))
  bitmap.enabled = false
  bitmap.busy = 'something'
  const start = () => startBackup(graph, jobs, { id: 'b', source, target, sync: 'bitmap', bitmap })
  await expect(start()).rejects.toThrow('currently in use')
  expect(guest.node).toBe(source)
  bitmap.busy = undefined
  const job = await start()
  await guest.write(at(8), block(8))
  await job.done
  expect(bitmap.count).toBe(0)
  await graph[Symbol.asyncDispose]()
})

test('copy-before-write with a bitmap keeps what is dirty and nothing else', async () => {
  const { graph, source, guest, bitmap } = await setUp()
  await guest.write(at(3), block(3))
  await guest[Symbol.asyncDispose]()
  const filter = await graph.open({
    driver: 'copy-before-write',
    'node-name': 'filter',
    file: 'source',
    target: 'target',
    bitmap: { node: 'source', name: 'b0' },
  })
  const writer = graph.attach(filter, { description: 'a guest', uses: ['consistentRead', 'write'] })
  await writer.write(at(3), block(33))
  await writer.write(at(4), block(44))
  const target = await contentOf(graph, graph.node('target'))
  expect([target[at(3)], target[at(4)]]).toEqual([3, 0])
  expect(dirtyClusters(bitmap)).toEqual([3, 4])
  expect((await contentOf(graph, source))[at(4)]).toBe(44)
  await expect(
    graph.open({
      driver: 'copy-before-write',
      file: 'source',
      target: 'target',
      bitmap: { node: 'source', name: 'zz' },
    }),
  ).rejects.toThrow("Dirty bitmap 'zz' not found")
  await graph[Symbol.asyncDispose]()
})
