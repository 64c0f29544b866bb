/** Jobs through nothing but what the package exports: what a program that embeds varve has. */
import { setImmediate as nextTurn } from 'node:timers/promises'
import { expect, test } from 'vitest'
import {
  createImage,
  drivers,
  Graph,
  type Job,
  type JobProgress,
  JobTable,
  startArchiveBackup,
  startBackup,
  startCommit,
  startMirror,
  startStream,
} from '../../src/index.ts'
import { scratchFolder } from '../support/folder.ts'
import { Random, seedNote } from '../support/random.ts'

const MiB = 1024 * 1024
const size = 4 * MiB
const folder = scratchFolder('library-jobs')
let count = 0

async function setUp() {
  const home = `${folder}/${count++}`
  const graph = new Graph({ drivers })
  const jobs = new JobTable()
  const content = Buffer.from(new Random().bytes(size))
  const image = async (name: string, format: string, backing?: string) => {
    const filename = `${home}-${name}`
    const record = backing && { backing_file: `${home}-${backing}`, backing_fmt: 'qcow2' }
    await createImage(graph, { filename, format, options: { size, ...record } })
    return await graph.openFile(filename, {
      driver: format,
      'node-name': name,
      ...(backing && { backing }),
    })
  }
  const base = await image('base', 'qcow2')
  const disk = await image('disk', 'qcow2', 'base')
  const target = await image('target', 'qcow2')
  await base.write(0, content.subarray(0, size / 2))
  await disk.write(size / 2, content.subarray(size / 2))
  const guest = graph.attach(disk, { description: 'a guest', uses: ['consistentRead', 'write'] })
  const close = () => graph[Symbol.asyncDispose]()
  return { graph, jobs, base, disk, target, guest, content, home, [Symbol.asyncDispose]: close }
}

type Setting = Awaited<ReturnType<typeof setUp>>

async function contentOf(node: { read(offset: number, target: Uint8Array): unknown }) {
  const found = Buffer.alloc(size)
  await node.read(0, found)
  return found
}

const kinds: Readonly<Record<string, (setting: Setting, speed: number) => Promise<Job>>> = {
  stream: ({ graph, jobs, disk }, speed) =>
    startStream(graph, jobs, { id: 'j', node: disk, speed }),
  commit: ({ graph, jobs, disk, base }, speed) =>
    startCommit(graph, jobs, { id: 'j', node: disk, base, speed }),
  mirror: ({ graph, jobs, disk, target }, speed) =>
    startMirror(graph, jobs, { id: 'j', source: disk, target, sync: 'full', speed }),
  backup: ({ graph, jobs, disk, target }, speed) =>
    startBackup(graph, jobs, { id: 'j', source: disk, target, sync: 'full', speed }),
  'backup with fleecing': ({ graph, jobs, disk, target }, speed) => {
    const fleecing = { folder, limit: MiB }
    const options = { id: 'j', source: disk, target, sync: 'full', speed, fleecing } as const
    return startBackup(graph, jobs, options)
  },
}

test.each(Object.entries(kinds))(
  `%s: progress, pause, speed, the end (${seedNote})`,
  async (_, start) => {
    await using setting = await setUp()
    const { jobs, guest, content } = setting
    const job = await start(setting, 64 * 1024)
    const seen: JobProgress[] = []
    const watching = (async () => {
      for await (const progress of job) seen.push(progress)
    })()
    expect(jobs.get('j')).toBe(job)
    job.pause()
    while (job.status !== 'paused') await nextTurn()
    expect(job.paused).toBe(true)
    job.resume()
    job.setSpeed(0)
    expect(job.speed).toBe(0)
    job.on('ready', () => job.requestCompletion())
    await job.done
    await watching
    expect(seen.length).toBeGreaterThan(1)
    expect(['concluded', 'null']).toContain(seen.at(-1)?.status)
    expect(seen.at(-1)?.current).toBe(seen.at(-1)?.total)
    expect((await contentOf(guest)).equals(content)).toBe(true)
    expect(jobs.jobs.size).toBe(0)
  },
)

test.each(Object.entries(kinds))('%s: cancelled', async (_, start) => {
  await using setting = await setUp()
  const job = await start(setting, 64 * 1024)
  await job.cancel()
  await expect(job.done).rejects.toMatchObject({ code: 'CLOSED', errno: 'ECANCELED' })
  expect(job.cancelled).toBe(true)
  expect(setting.guest.node).toBe(setting.disk)
  expect((await contentOf(setting.guest)).equals(setting.content)).toBe(true)
})

test('fleecing by hand: a compressed backup of what snapshot-access shows', async () => {
  await using setting = await setUp()
  const { graph, jobs, disk, target, guest, content } = setting
  // It will write through the filter.
  await guest[Symbol.asyncDispose]()
  const scratch = await graph.open({ driver: 'memory', size, 'node-name': 'scratch' })
  const cbw = { driver: 'copy-before-write', 'node-name': 'cbw', file: disk.name }
  const filter = await graph.open({
    ...cbw,
    target: scratch.name,
    'on-cbw-error': 'break-snapshot',
  })
  const moment = await graph.open({ driver: 'snapshot-access', file: 'cbw', 'node-name': 'moment' })
  const writer = graph.attach(filter, { description: 'a guest', uses: ['consistentRead', 'write'] })
  const options = { id: 'j', source: moment, target, sync: 'full', compress: true } as const
  const job = await startBackup(graph, jobs, { ...options, speed: MiB })
  await writer.write(0, new Uint8Array(size).fill(3))
  job.setSpeed(0)
  await job.done
  expect((await contentOf(target)).equals(content)).toBe(true)
})

test('several disks into an archive of one moment', async () => {
  await using setting = await setUp()
  const { graph, jobs, disk, target } = setting
  const parts: Uint8Array[] = []
  const sink = {
    write: async (bytes: Uint8Array) => void parts.push(Uint8Array.from(bytes)),
    finish: async () => {},
    abort: async () => {},
  }
  const disks = [
    { name: 'a', node: disk },
    { name: 'b', node: target },
  ]
  const { job, streams } = await startArchiveBackup(graph, jobs, { id: 'j', sink, disks })
  await job.done
  expect(streams().map(({ transferred }) => transferred)).toEqual([size, size])
  expect(Buffer.concat(parts).subarray(0, 4).toString('latin1')).toBe('VMA\0')
})
