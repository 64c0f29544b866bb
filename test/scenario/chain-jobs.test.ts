/** Stream, commit and active commit on a chain of images, while a guest reads and writes. */
import { setImmediate } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import { drivers } from '../../src/drivers.ts'
import { imagesOf } from '../../src/graph/chain.ts'
import { Graph } from '../../src/graph/graph.ts'
import type { BlockNode } from '../../src/graph/node.ts'
import { startCommit } from '../../src/job/commit.ts'
import type { Job } from '../../src/job/job.ts'
import { JobTable } from '../../src/job/job-table.ts'
import type { JobStatus } from '../../src/job/status.ts'
import { startStream } from '../../src/job/stream.ts'
import { attach, contentOf, memoryImage, write } from '../support/image-chain.ts'
import { ModelGuest } from '../support/model-guest.ts'
import { Random, runSeed, seedNote } from '../support/random.ts'

const size = 4 * 1024 * 1024 + 3 * 512

async function chainUnderGuest(seed: number, baseSize = size) {
  const random = new Random(seed)
  const graph = new Graph({ drivers })
  const jobs = new JobTable()
  const fill = async (node: BlockNode) => {
    for (let step = 0; step < 12; step++) {
      const [offset, length] = random.range(node.size, 512, 400_000)
      await write(graph, node, offset, random.bytes(length))
    }
  }
  const base = await memoryImage(graph, 'base', { size: baseSize })
  await fill(base)
  const mid = await memoryImage(graph, 'mid', { size, backing: base })
  await fill(mid)
  const low = await memoryImage(graph, 'low', { size, backing: mid, clusterSize: 4096 })
  await fill(low)
  const top = await memoryImage(graph, 'top', { size, backing: low })
  await fill(top)
  const edge = attach(graph, top)
  const guest = new ModelGuest(edge, random, await contentOf(graph, top))
  return { random, graph, jobs, base, mid, low, top, edge, guest }
}

function recordedBy(node: BlockNode): string | undefined {
  return node.layer.backingLink?.recorded?.filename
}

function statusesOf(jobs: JobTable): JobStatus[] {
  const statuses: JobStatus[] = []
  jobs.on('status', (_, status) => statuses.push(status))
  return statuses
}

async function endedBy(job: Job, way: 'itself' | 'cancel', random: Random) {
  if (way === 'cancel') {
    for (let turns = random.below(60); turns > 0; turns--) await setImmediate()
    await job.cancel().catch(() => {})
  }
  await job.done.catch(() => {})
}

describe('stream', () => {
  test.each([0, 1, 2, 3])(
    `takes over the chain, or a part, under guest I/O (%i, ${seedNote})`,
    async (round) => {
      const { random, graph, jobs, base, mid, low, top, edge, guest } = await chainUnderGuest(
        runSeed + round,
      )
      const keep = [undefined, base, mid, low][round]
      guest.start()
      const job = await startStream(graph, jobs, { id: 's', node: top, base: keep })
      expect(edge.node.driver).toBe('copy-on-read')
      await endedBy(job, 'itself', random)
      await guest.stop()
      expect(job.error).toBeUndefined()
      const bytes = keep === low ? 0 : size
      expect(job.progress).toMatchObject({ current: bytes, total: bytes })
      expect(edge.node).toBe(top)
      expect(imagesOf(top)).toEqual(keep ? [top, ...imagesOf(keep)] : [top])
      expect(recordedBy(top)).toBe(keep && 'json:{"driver": "memory"}')
      expect((await contentOf(graph, top)).equals(guest.model)).toBe(true)
      await graph[Symbol.asyncDispose]()
    },
  )

  test(`of a cancelled job nothing is left but copies (${seedNote})`, async () => {
    const { random, graph, jobs, base, mid, low, top, edge, guest } = await chainUnderGuest(runSeed)
    guest.start()
    const job = await startStream(graph, jobs, { id: 's', node: top, base, speed: 1_000_000 })
    await expect(graph.setBacking(top, base)).rejects.toMatchObject({ code: 'BUSY' })
    await endedBy(job, 'cancel', random)
    await guest.stop()
    expect(imagesOf(top)).toEqual([top, low, mid, base])
    expect(recordedBy(top)).toBe('low')
    expect(edge.node).toBe(top)
    expect((await contentOf(graph, top)).equals(guest.model)).toBe(true)
    await graph.setBacking(low, base)
    await graph[Symbol.asyncDispose]()
  })

  test('copies only what the images between hold', async () => {
    const graph = new Graph({ drivers })
    const jobs = new JobTable()
    const base = await memoryImage(graph, 'base', { size })
    await write(graph, base, 0, new Uint8Array(65536).fill(1))
    const mid = await memoryImage(graph, 'mid', { size, backing: base })
    await write(graph, mid, 2 * 65536, new Uint8Array(65536).fill(2))
    const top = await memoryImage(graph, 'top', { size, backing: mid })
    const job = await startStream(graph, jobs, { id: 's', node: top, base })
    await job.done
    const extents = []
    for await (const { kind, offset, length } of top.extents()) extents.push([kind, offset, length])
    expect(extents).toEqual([
      ['backing', 0, 2 * 65536],
      ['data', 2 * 65536, 65536],
      ['backing', 3 * 65536, size - 3 * 65536],
    ])
    await graph[Symbol.asyncDispose]()
  })

  test('what a guest reads is taken over at once, but nothing of the base', async () => {
    const graph = new Graph({ drivers })
    const jobs = new JobTable()
    const base = await memoryImage(graph, 'base', { size })
    await write(graph, base, 0, new Uint8Array(size).fill(1))
    const mid = await memoryImage(graph, 'mid', { size, backing: base })
    await write(graph, mid, 30 * 65536, new Uint8Array(8 * 65536).fill(2))
    const top = await memoryImage(graph, 'top', { size, backing: mid })
    const guest = attach(graph, top, ['consistentRead'])
    const job = await startStream(graph, jobs, { id: 's', node: top, base, speed: 1 })
    await guest.read(35 * 65536 + 512, Buffer.alloc(65536))
    await guest.read(10 * 65536, Buffer.alloc(65536))
    await job.cancel()
    const taken = []
    for await (const { kind, offset, length } of top.extents()) {
      if (kind === 'data' && offset >= 34 * 65536) taken.push([offset / 65536, length / 65536])
      if (kind === 'data') expect(offset).toBeGreaterThanOrEqual(30 * 65536)
    }
    expect(taken).toEqual([[35, 2]])
    await graph[Symbol.asyncDispose]()
  })

  test('an image without a backing file has nothing to do', async () => {
    const graph = new Graph({ drivers })
    const jobs = new JobTable()
    const statuses = statusesOf(jobs)
    const node = await memoryImage(graph, 'base', { size })
    await (await startStream(graph, jobs, { id: 's', node })).done
    await setImmediate()
    expect(statuses).toEqual(['created', 'running', 'waiting', 'pending', 'concluded', 'null'])
    await graph[Symbol.asyncDispose]()
  })
})

describe('commit', () => {
  test.each([0, 1, 2])(`of inner images, under guest I/O (%i, ${seedNote})`, async (round) => {
    const { random, graph, jobs, base, mid, low, top, guest } = await chainUnderGuest(
      runSeed + round,
      round === 0 ? 1024 * 1024 : size,
    )
    const [from, into, above] = [
      [low, base, top],
      [low, mid, top],
      [mid, base, low],
    ][round]
    guest.start()
    const job = await startCommit(graph, jobs, {
      id: 'c',
      node: top,
      top: from,
      base: into,
      backingFile: 'renamed',
    })
    await endedBy(job, 'itself', random)
    await guest.stop()
    expect(job.error).toBeUndefined()
    expect(above.children.get('backing')?.node).toBe(into)
    expect(recordedBy(above)).toBe('renamed')
    expect(into.size).toBe(size)
    expect((await contentOf(graph, top)).equals(guest.model)).toBe(true)
    await graph[Symbol.asyncDispose]()
  })

  test(`cancelled at any moment, guests see what they saw (${seedNote})`, async () => {
    for (let round = 0; round < 3; round++) {
      const { random, graph, jobs, base, mid, low, top, guest } = await chainUnderGuest(
        runSeed + round,
      )
      guest.start()
      const job = await startCommit(graph, jobs, { id: 'c', node: top, top: low, base })
      await endedBy(job, 'cancel', random)
      await guest.stop()
      if (job.error) expect(imagesOf(top)).toEqual([top, low, mid, base])
      expect((await contentOf(graph, top)).equals(guest.model)).toBe(true)
      await graph[Symbol.asyncDispose]()
    }
  })

  test('the base is writable while it is written to, and read-only again afterwards', async () => {
    const graph = new Graph({ drivers })
    const jobs = new JobTable()
    const base = await memoryImage(graph, 'base', { size })
    await graph.setReadOnly(base, true)
    const mid = await memoryImage(graph, 'mid', { size, backing: base })
    await write(graph, mid, 0, new Uint8Array(100).fill(2))
    const top = await memoryImage(graph, 'top', { size, backing: mid })
    const job = await startCommit(graph, jobs, { id: 'c', node: top, top: mid, base })
    expect(base.readOnly).toBe(false)
    await job.done
    expect(base.readOnly).toBe(true)
    expect((await contentOf(graph, base))[99]).toBe(2)
    await graph[Symbol.asyncDispose]()
  })
})

describe('active commit', () => {
  test.each([0, 1])(`the base becomes the live image (%i, ${seedNote})`, async (round) => {
    const { graph, jobs, base, top, edge, guest } = await chainUnderGuest(
      runSeed + round,
      [size, 1024 * 1024][round],
    )
    const statuses = statusesOf(jobs)
    guest.start()
    const job = await startCommit(graph, jobs, { id: 'c', node: top })
    const ready = new Promise<void>((resolve) => job.once('ready', resolve))
    // The guest never rests: it is left alone for the job to catch up.
    await guest.stop()
    await ready
    for (let step = 0; step < 20; step++) await guest.step()
    await job.complete()
    for (let step = 0; step < 20; step++) await guest.step()
    expect(edge.node).toBe(base)
    expect((await contentOf(graph, base)).equals(guest.model)).toBe(true)
    expect(statuses.filter((status) => status !== 'paused' && status !== 'standby')).toContain(
      'ready',
    )
    await graph[Symbol.asyncDispose]()
  })

  test(`cancelled, softly or not, the top stays (${seedNote})`, async () => {
    for (const soft of [true, false]) {
      const { graph, jobs, base, mid, low, top, edge, guest } = await chainUnderGuest(runSeed)
      const job = await startCommit(graph, jobs, { id: 'c', node: top })
      await new Promise<void>((resolve) => job.once('ready', resolve))
      await guest.step()
      await job.cancel({ soft })
      expect(job.error === undefined).toBe(soft)
      expect(edge.node).toBe(top)
      expect(imagesOf(top)).toEqual([top, low, mid, base])
      if (soft) expect((await contentOf(graph, base)).equals(guest.model)).toBe(true)
      expect((await contentOf(graph, top)).equals(guest.model)).toBe(true)
      await graph[Symbol.asyncDispose]()
    }
  })
})
