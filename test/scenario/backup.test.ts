/** A backup job keeps the disk of the moment it began while a guest goes on writing. */
import { expect, test } from 'vitest'
import { Filter } from '../../src/block/filter.ts'
import type { WriteIo } from '../../src/block/layer.ts'
import { plainIo } from '../../src/block/layer.ts'
import { drivers } from '../../src/drivers.ts'
import { BlockError } from '../../src/errors.ts'
import { Graph } from '../../src/graph/graph.ts'
import { startBackup } from '../../src/job/backup.ts'
import { JobTable } from '../../src/job/job-table.ts'
import type { JobStatus } from '../../src/job/status.ts'
import { Random, seedNote } from '../support/random.ts'

const size = 5 * 1024 * 1024 + 4096

async function setUp() {
  const random = new Random()
  const graph = new Graph({ drivers })
  const jobs = new JobTable()
  const source = await graph.open({ driver: 'memory', 'node-name': 'source', size })
  const target = await graph.open({ driver: 'memory', 'node-name': 'target', size })
  const guest = graph.attach(source, { description: 'a guest', uses: ['consistentRead', 'write'] })
  for (let step = 0; step < 40; step++) {
    const [offset, length] = random.range(size, 512, 300_000)
    await guest.write(offset, random.bytes(length))
  }
  const before = new Uint8Array(size)
  await guest.read(0, before)
  const copy = async () => {
    const bytes = new Uint8Array(size)
    await target.read(0, bytes)
    return Buffer.from(bytes)
  }
  return { random, graph, jobs, source, target, guest, before: Buffer.from(before), copy }
}

test(`a full backup equals the disk at its start, whatever the guest writes (${seedNote})`, async () => {
  const { random, graph, jobs, source, target, guest, before, copy } = await setUp()
  const statuses: JobStatus[] = []
  jobs.on('status', (_, status) => statuses.push(status))
  const job = await startBackup(graph, jobs, { id: 'b0', source, target, sync: 'full' })
  expect(guest.node.driver).toBe('copy-before-write')

  for (let step = 0; step < 60; step++) {
    const [offset, length] = random.range(size, 512, 200_000)
    const kind = random.below(4)
    if (kind === 0) await guest.writeZeroes(offset, length)
    else if (kind === 1) await guest.discard(offset, length)
    else await guest.write(offset, random.bytes(length))
  }
  await job.done

  expect((await copy()).equals(before)).toBe(true)
  expect(guest.node).toBe(source)
  expect(statuses).toEqual(['created', 'running', 'waiting', 'pending', 'concluded', 'null'])
  expect(job.progress).toMatchObject({ current: size, total: size })
  await graph[Symbol.asyncDispose]()
})

test('sync none copies exactly the clusters that the guest changes, until it is cancelled', async () => {
  const { graph, jobs, source, target, guest, before, copy } = await setUp()
  const job = await startBackup(graph, jobs, { id: 'b0', source, target, sync: 'none' })
  await guest.write(70_000, new Uint8Array(10).fill(1))
  await guest.write(3 * 65536, new Uint8Array(65536).fill(2))
  await job.cancel()

  const expected = Buffer.alloc(size)
  before.copy(expected, 65536, 65536, 131072)
  before.copy(expected, 3 * 65536, 3 * 65536, 4 * 65536)
  expect((await copy()).equals(expected)).toBe(true)
  expect(job.status).toBe('null')
  expect(guest.node).toBe(source)
  await graph[Symbol.asyncDispose]()
})

test('a job that only waits for guests can be paused and resumed', async () => {
  const { graph, jobs, source, target } = await setUp()
  const job = await startBackup(graph, jobs, { id: 'b0', source, target, sync: 'none' })
  const until = (wanted: JobStatus) =>
    new Promise<void>((resolve) => {
      job.on('status', (status) => {
        if (status === wanted) resolve()
      })
    })
  const paused = until('paused')
  job.pause()
  await paused
  const running = until('running')
  job.resume()
  await running
  await job.cancel()
  expect(job.status).toBe('null')
  await graph[Symbol.asyncDispose]()
})

test('a second user of the source may not write behind the back of a running backup', async () => {
  const { graph, jobs, source, target } = await setUp()
  const job = await startBackup(graph, jobs, { id: 'b0', source, target, sync: 'none' })
  expect(() => graph.attach(source, { description: 'another', uses: ['write'] })).toThrow(
    expect.objectContaining({ code: 'PERMISSION' }),
  )
  await job.cancel()
  await graph[Symbol.asyncDispose]()
})

test('a backup that others forbid leaves the graph as it was', async () => {
  const { graph, jobs, source, target, guest } = await setUp()
  graph.attach(target, { description: 'a jealous user', uses: [], shares: ['consistentRead'] })
  await expect(
    startBackup(graph, jobs, { id: 'b0', source, target, sync: 'full' }),
  ).rejects.toMatchObject({ code: 'PERMISSION' })
  expect(guest.node).toBe(source)
  expect([...graph.nodes.keys()].sort()).toEqual(['source', 'target'])
  expect(jobs.jobs.size).toBe(0)
  await guest.write(0, new Uint8Array(10), plainIo)
  await graph[Symbol.asyncDispose]()
})

test('pause stops the work, speed limits it, resume lets it end', async () => {
  const { graph, jobs, source, target, guest, before, copy } = await setUp()
  const job = await startBackup(graph, jobs, { id: 'b0', source, target, sync: 'full', speed: 1 })
  await new Promise((resolve) => setTimeout(resolve, 50))
  job.pause()
  await guest.write(0, new Uint8Array(size).fill(9))
  job.setSpeed(0)
  job.resume()
  await job.done
  expect((await copy()).equals(before)).toBe(true)
  await graph[Symbol.asyncDispose]()
})

/** A target of which one cluster takes its time, or fails. */
class OddTarget extends Filter {
  readonly #oddOffset: number
  readonly #odd: () => Promise<void>

  constructor(next: Filter['next'], oddOffset: number, odd: () => Promise<void>) {
    super(next)
    this.#oddOffset = oddOffset
    this.#odd = odd
  }

  override async write(offset: number, source: Uint8Array, io: WriteIo) {
    const end = offset + source.length
    if (offset <= this.#oddOffset && this.#oddOffset < end) await this.#odd()
    await super.write(offset, source, io)
  }
}

async function withOddTarget(odd: () => Promise<void>) {
  const all = await setUp()
  const { node } = await all.graph.add(
    'odd',
    { 'node-name': 'odd' },
    async (context) => new OddTarget(await context.child('filtered', 'target'), 65536, odd),
  )
  await all.guest.write(65536, new Uint8Array(65536).fill(5))
  return { ...all, odd: node }
}

test('a guest write waits for the copy of the clusters that it touches, and no others', async () => {
  let letGo = () => {}
  const stuck = new Promise<void>((resolve) => {
    letGo = resolve
  })
  const { graph, jobs, source, odd, guest } = await withOddTarget(() => stuck)
  const job = await startBackup(graph, jobs, { id: 'b0', source, target: odd, sync: 'none' })

  const finished: string[] = []
  const slow = Promise.resolve(guest.write(65536, new Uint8Array(512))).then(() =>
    finished.push('touching'),
  )
  await guest.write(4 * 65536, new Uint8Array(65536))
  await guest.write(0, new Uint8Array(65536))
  finished.push('elsewhere')
  letGo()
  await slow
  expect(finished).toEqual(['elsewhere', 'touching'])
  await job.cancel()
  await graph[Symbol.asyncDispose]()
})

test('when the target fails the guest goes on, and the job reports', async () => {
  const { graph, jobs, source, odd, guest } = await withOddTarget(async () => {
    throw new BlockError('IO', 'the target is on fire')
  })
  const job = await startBackup(graph, jobs, { id: 'b0', source, target: odd, sync: 'none' })
  await guest.write(65536, new Uint8Array(65536).fill(6))

  await expect(job.done).rejects.toThrow('the target is on fire')
  const written = new Uint8Array(65536)
  await guest.read(65536, written)
  expect(written.every((byte) => byte === 6)).toBe(true)
  expect(guest.node).toBe(source)
  await graph[Symbol.asyncDispose]()
})

test('a full target pauses the job where the policy says so, and resume carries on', async () => {
  let full = true
  const { graph, jobs, source, target, odd, before } = await withOddTarget(async () => {
    if (full) throw new BlockError('NO_SPACE', 'no room')
  })
  before.fill(5, 65536, 131072)
  const job = await startBackup(graph, jobs, {
    id: 'b0',
    source,
    target: odd,
    sync: 'full',
    onTargetError: 'enospc',
  })
  await new Promise<void>((resolve) =>
    job.on('status', (status) => {
      if (status === 'paused') resolve()
    }),
  )
  expect(job.ioStatus).toBe('nospace')
  full = false
  job.resume()
  await job.done
  const bytes = Buffer.alloc(size)
  await target.read(0, bytes)
  expect(bytes.equals(before)).toBe(true)
  await graph[Symbol.asyncDispose]()
})
