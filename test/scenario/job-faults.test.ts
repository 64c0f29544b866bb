/**
 * A fault at any request of any job: it ends as its policy says, the graph is left whole, and the
 * guest reads what it read before.
 */
import { setImmediate } from 'node:timers/promises'
import { expect, test } from 'vitest'
import type { ErrorPolicy } from '../../src/block/error-policy.ts'
import { drivers } from '../../src/drivers.ts'
import { imagesOf } from '../../src/graph/chain.ts'
import type { Edge } from '../../src/graph/edge.ts'
import { Graph } from '../../src/graph/graph.ts'
import type { BlockNode } from '../../src/graph/node.ts'
import { startBackup } from '../../src/job/backup.ts'
import { startCommit } from '../../src/job/commit.ts'
import type { Job } from '../../src/job/job.ts'
import { JobTable } from '../../src/job/job-table.ts'
import { startMirror } from '../../src/job/mirror.ts'
import { startStream } from '../../src/job/stream.ts'
import { Faults } from '../support/faults.ts'
import { attach, contentOf, memoryImage, write } from '../support/image-chain.ts'
import { Random, runSeed, seedNote } from '../support/random.ts'

const size = 1024 * 1024 + 512
const clusterSize = 16 * 1024

/** Runs with a fault, spread over all requests, of each job and policy. */
const runs = process.env.VARVE_LONG ? 500 : 25

async function setUp() {
  const random = new Random(runSeed)
  const faults = new Faults()
  const graph = new Graph({ drivers })
  const jobs = new JobTable()
  const image = async (name: string, backing?: BlockNode) => {
    const node = await memoryImage(graph, name, { size, backing, clusterSize, faults })
    for (let step = 0; step < 6; step++) {
      const [offset, length] = random.range(size, 512, 100_000)
      await write(graph, node, offset, random.bytes(length))
    }
    return node
  }
  const base = await image('base')
  const mid = await image('mid', base)
  const top = await image('top', mid)
  const copy = await image('copy')
  const edge = attach(graph, top)
  const content = await contentOf(graph, top)
  return { random, faults, graph, jobs, base, mid, top, copy, edge, content }
}

type Setting = Awaited<ReturnType<typeof setUp>>
type Start = (setting: Setting, onError: ErrorPolicy) => Promise<Job>

const policies = (policy: ErrorPolicy) => ({ onSourceError: policy, onTargetError: policy })

const kinds: Readonly<Record<string, Start>> = {
  stream: ({ graph, jobs, top, base }, onError) =>
    startStream(graph, jobs, { id: 'j', node: top, base, onError }),
  'stream of all': ({ graph, jobs, top }, onError) =>
    startStream(graph, jobs, { id: 'j', node: top, onError }),
  commit: ({ graph, jobs, top, mid, base }, onError) =>
    startCommit(graph, jobs, { id: 'j', node: top, top: mid, base, onError }),
  'active commit': ({ graph, jobs, top, base }, onError) =>
    startCommit(graph, jobs, { id: 'j', node: top, base, onError }),
  mirror: ({ graph, jobs, top, copy }, onError) =>
    startMirror(graph, jobs, {
      id: 'j',
      source: top,
      target: copy,
      sync: 'full',
      copyMode: 'write-blocking',
      ...policies(onError),
    }),
  backup: ({ graph, jobs, top, copy }, onError) =>
    startBackup(graph, jobs, {
      id: 'j',
      source: top,
      target: copy,
      sync: 'full',
      ...policies(onError),
    }),
}

interface Course {
  readonly stops: number
  readonly ignored: number
}

/** Completes a job as soon as it is ready, and resumes it when it has stopped. */
async function lead(job: Job): Promise<Course> {
  let stops = 0
  let ignored = 0
  job.on('ready', () => job.requestCompletion())
  job.on('error', ({ action }) => {
    if (action === 'ignore') ignored++
    if (action !== 'stop') return
    stops++
    const resume = async () => {
      while (job.status !== 'paused' && job.status !== 'standby') await setImmediate()
      expect(job.ioStatus).not.toBe('ok')
      job.resume()
    }
    void resume()
  })
  await job.done.catch(() => {})
  await setImmediate()
  return { stops, ignored }
}

/** What must be true whatever has happened. */
async function expectWhole({ graph, jobs, top, edge, content, faults }: Setting, note: string) {
  faults.disarm()
  expect(jobs.jobs.size, note).toBe(0)
  const names = [...graph.nodes.keys()].filter(
    (name) => !/^(base|mid|top|copy)(-file)?$/.test(name),
  )
  expect(names, note).toEqual([])
  for (const node of graph.nodes.values()) {
    for (const child of node.children.values()) expect(child.frozen, note).toBeUndefined()
    expect(() => node.blockers.check('stream'), note).not.toThrow()
  }
  const { backingLink } = top.layer
  const backing = top.children.get('backing')?.node
  if (edge.node === top) {
    // What is recorded and what is open are the same.
    const recorded = backingLink?.recorded?.filename
    expect(recorded === undefined, note).toBe(backing === undefined)
  }
  expect((await read(edge)).equals(content), note).toBe(true)
  await edge.write(1000, new Uint8Array(1000).fill(7))
  content.fill(7, 1000, 2000)
  expect((await read(edge)).equals(content), note).toBe(true)
  await graph[Symbol.asyncDispose]()
}

async function read(edge: Edge): Promise<Buffer> {
  const bytes = Buffer.alloc(size)
  await edge.read(0, bytes)
  return bytes
}

for (const [name, start] of Object.entries(kinds)) {
  for (const policy of ['report', 'stop', 'enospc', 'ignore'] as const) {
    test(`${name}, with the policy ${policy} (${seedNote})`, async () => {
      const first = await setUp()
      first.faults.arm(Number.POSITIVE_INFINITY)
      const job = await start(first, policy)
      await lead(job)
      const { count } = first.faults
      expect(job.error).toBeUndefined()
      await expectWhole(first, 'without a fault')

      let failed = 0
      let stopped = 0
      let ignored = 0
      for (let run = 0; run < Math.min(runs, count); run++) {
        const at = runs < count ? Math.floor((run * count) / runs) : run
        const note = `fault at request ${at} of ${count}`
        const setting = await setUp()
        setting.faults.arm(at, policy === 'enospc' ? 'NO_SPACE' : 'IO')
        let begun: Job
        try {
          begun = await start(setting, policy)
        } catch {
          await expectWhole(setting, note)
          continue
        }
        const course = await lead(begun)
        if (course.stops > 0) stopped++
        if (begun.error) failed++
        if (course.ignored > 0) {
          ignored++
          // A stream does what it can, and fails; the others try again.
          expect(begun.error === undefined, note).toBe(!name.startsWith('stream'))
        }
        if (name === 'backup' && !begun.error) {
          setting.faults.disarm()
          const copied = await contentOf(setting.graph, setting.copy)
          expect(copied.equals(setting.content), note).toBe(true)
        }
        if (policy === 'report' && course.stops > 0) throw new Error(`${note}: stopped`)
        await expectWhole(setting, note)
      }
      // Requests of metadata are caches' and flushes' as well, which end a job; most are not.
      if (policy === 'report') expect(failed).toBeGreaterThan(0)
      else if (policy === 'ignore') expect(ignored).toBeGreaterThan(0)
      else expect(stopped).toBeGreaterThan(0)
    })
  }
}

test('an image that was streamed has the base as recorded', async () => {
  const setting = await setUp()
  const { graph, jobs, top, base } = setting
  await lead(await startStream(graph, jobs, { id: 'j', node: top, base }))
  expect(imagesOf(top)).toEqual([top, base])
  await expectWhole(setting, '')
})
