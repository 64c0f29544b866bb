/** A mirror: the copy is the same when it is ready, stays the same, and can take over. */
import { setImmediate } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { drivers } from '../../src/drivers.ts'
import { Graph } from '../../src/graph/graph.ts'
import { JobTable } from '../../src/job/job-table.ts'
import { type MirrorOptions, startMirror } from '../../src/job/mirror.ts'
import type { JobStatus } from '../../src/job/status.ts'
import { attach, contentOf, memoryImage } from '../support/image-chain.ts'
import { ModelGuest } from '../support/model-guest.ts'
import { Random, runSeed, seedNote } from '../support/random.ts'

const size = 6 * 1024 * 1024 + 3 * 512

async function setUp(seed = runSeed, discard?: 'unmap') {
  const random = new Random(seed)
  const graph = new Graph({ drivers })
  const jobs = new JobTable()
  const statuses: JobStatus[] = []
  jobs.on('status', (_, status) => statuses.push(status))
  const memory = (name: string) =>
    graph.open({ driver: 'memory', 'node-name': name, size }, { discard: discard ?? 'ignore' })
  const source = await memory('source')
  const target = await memory('target')
  const edge = attach(graph, source, ['consistentRead', 'write'])
  const guest = new ModelGuest(edge, random, Buffer.alloc(size))
  for (let step = 0; step < 30; step++) await guest.step()
  const start = async (options: Partial<MirrorOptions> = {}) => {
    const job = await startMirror(graph, jobs, {
      id: 'm',
      source,
      target,
      sync: 'full',
      ...options,
    })
    return { job, ready: new Promise<void>((resolve) => job.once('ready', resolve)) }
  }
  return { random, graph, jobs, statuses, source, target, edge, guest, start }
}

test.each([
  ['background', undefined, undefined],
  ['background', 'unmap', 4096],
  ['write-blocking', undefined, 512],
  ['write-blocking', 'unmap', 65536],
] as const)(
  `%s: the copy takes over (discard %s, granularity %s, ${seedNote})`,
  async (copyMode, discard, granularity) => {
    const { graph, statuses, source, target, edge, guest, start } = await setUp(runSeed, discard)
    const { job, ready } = await start({ copyMode, granularity })
    guest.start()
    for (let turn = 0; turn < 200; turn++) await setImmediate()
    await guest.stop()
    await ready
    for (let step = 0; step < 20; step++) await guest.step()
    await job.complete()
    for (let step = 0; step < 20; step++) await guest.step()
    expect(edge.node).toBe(target)
    expect(source.parents.size).toBe(0)
    expect((await contentOf(graph, target)).equals(guest.model)).toBe(true)
    expect(job.progress.current).toBe(job.progress.total)
    expect(statuses).toEqual([
      'created',
      'running',
      'ready',
      'waiting',
      'pending',
      'concluded',
      'null',
    ])
    await graph[Symbol.asyncDispose]()
  },
)

test(`with write-blocking what is ready stays ready under writes (${seedNote})`, async () => {
  const { graph, target, guest, start } = await setUp()
  const { job, ready } = await start({ copyMode: 'write-blocking' })
  await ready
  for (let step = 0; step < 40; step++) await guest.step()
  // No flush, no pause: the target has it already.
  const bytes = Buffer.alloc(size)
  await target.read(0, bytes)
  expect(bytes.equals(guest.model)).toBe(true)
  await job.cancel()
  await graph[Symbol.asyncDispose]()
})

test(`a soft cancel leaves the copy as it is then, and everybody in place (${seedNote})`, async () => {
  const { graph, statuses, source, target, edge, guest, start } = await setUp()
  const { job, ready } = await start()
  await ready
  for (let step = 0; step < 10; step++) await guest.step()
  const then = job.cancel({ soft: true })
  await then
  const copy = Buffer.from(guest.model)
  for (let step = 0; step < 10; step++) await guest.step()
  expect(job.error).toBeUndefined()
  expect(statuses.at(-2)).toBe('concluded')
  expect(edge.node).toBe(source)
  expect((await contentOf(graph, target)).equals(copy)).toBe(true)
  await graph[Symbol.asyncDispose]()
})

test(`cancelled at random moments, guests go on (${seedNote})`, async () => {
  for (let round = 0; round < 6; round++) {
    const { random, graph, jobs, source, edge, guest, start } = await setUp(runSeed + round)
    const copyMode = round % 2 === 0 ? 'background' : 'write-blocking'
    const { job } = await start({ copyMode, speed: random.chance(0.5) ? 4_000_000 : 0 })
    guest.start()
    for (let turns = random.below(80); turns > 0; turns--) await setImmediate()
    if (random.chance(0.5)) {
      job.pause()
      await setImmediate()
    }
    await job.cancel()
    await guest.stop()
    expect(jobs.jobs.size).toBe(0)
    expect(edge.node).toBe(source)
    expect((await contentOf(graph, source)).equals(guest.model)).toBe(true)
    expect([...graph.nodes.keys()].sort()).toEqual(['source', 'target'])
    await graph[Symbol.asyncDispose]()
  }
})

test(`while it waits to be finalized, guests go on writing, and the copy has it all (${seedNote})`, async () => {
  const { graph, target, edge, guest, start } = await setUp()
  const { job, ready } = await start({ manualFinalize: true })
  await ready
  const pending = new Promise<void>((resolve) => {
    job.on('status', (status) => status === 'pending' && resolve())
  })
  job.requestCompletion()
  await pending
  for (let step = 0; step < 10; step++) await guest.step()
  await job.finalize()
  expect(edge.node).toBe(target)
  expect((await contentOf(graph, target)).equals(guest.model)).toBe(true)
  await graph[Symbol.asyncDispose]()
})

test('only the top, onto an overlay of the same backing file', async () => {
  const graph = new Graph({ drivers })
  const jobs = new JobTable()
  const base = await memoryImage(graph, 'base', { size })
  const top = await memoryImage(graph, 'top', { size, backing: base })
  const copy = await memoryImage(graph, 'copy', { size, backing: base })
  const edge = attach(graph, base)
  await edge.write(0, new Uint8Array(65536).fill(1))
  await edge[Symbol.asyncDispose]()
  const guest = attach(graph, top)
  await guest.write(2 * 65536, new Uint8Array(65536).fill(2))
  const job = await startMirror(graph, jobs, { id: 'm', source: top, target: copy, sync: 'top' })
  await new Promise<void>((resolve) => job.once('ready', resolve))
  expect(job.progress).toMatchObject({ current: 65536, total: 65536 })
  await guest.write(3 * 65536, new Uint8Array(512).fill(3))
  await job.complete()
  expect(guest.node).toBe(copy)
  const shown = await contentOf(graph, copy)
  expect([shown[0], shown[2 * 65536], shown[3 * 65536]]).toEqual([1, 2, 3])
  expect((await copy.extentAt(0, 65536)).kind).toBe('backing')
  await graph[Symbol.asyncDispose]()
})

test('a target of another size, the source itself, and a busy node are refused', async () => {
  const { graph, jobs, source, target, start } = await setUp()
  const large = await graph.open({ driver: 'memory', 'node-name': 'large', size: size * 2 })
  const { job } = await start({ target: large })
  await expect(job.done).rejects.toMatchObject({
    message: 'Source and target image have different sizes',
  })
  await expect(start({ target: source })).rejects.toMatchObject({
    message: "Can't mirror node into itself",
  })
  const { job: first } = await start()
  await expect(start({ id: 'n', source: large, target })).rejects.toMatchObject({
    message: "Node 'target' is busy: block device is in use by block job: mirror",
  })
  await first.cancel()
  expect(jobs.jobs.size).toBe(0)
  await graph[Symbol.asyncDispose]()
})
