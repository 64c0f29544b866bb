/** Mirrors of what a bitmap says: what it does not say in the end is the same on both sides. */
import { setImmediate } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { drivers } from '../../src/drivers.ts'
import { addBitmap } from '../../src/graph/bitmap-actions.ts'
import { Graph } from '../../src/graph/graph.ts'
import { JobTable } from '../../src/job/job-table.ts'
import { type MirrorOptions, startMirror } from '../../src/job/mirror.ts'
import { attach, contentOf } from '../support/image-chain.ts'
import { ModelGuest } from '../support/model-guest.ts'
import { Random, runSeed, seedNote } from '../support/random.ts'

const size = 5 * 1024 * 1024 + 3 * 512
const granularity = 16 * 1024

/** A source, a target that was the same when the bitmap began, and a guest that has written since. */
async function setUp(seed: number) {
  const random = new Random(seed)
  const graph = new Graph({ drivers })
  const jobs = new JobTable()
  const memory = (name: string) => graph.open({ driver: 'memory', 'node-name': name, size })
  const source = await memory('source')
  const target = await memory('target')
  const edge = attach(graph, source, ['consistentRead', 'write'])
  const guest = new ModelGuest(edge, random, Buffer.alloc(size))
  for (let step = 0; step < 20; step++) await guest.step()
  {
    await using copy = attach(graph, target, ['write'])
    await copy.write(0, guest.model)
  }
  addBitmap(source, { name: 'changes', granularity })
  const bitmap = source.bitmaps.get('changes')!
  for (let step = 0; step < 4; step++) await guest.step()
  const start = async (options: Partial<MirrorOptions>) => {
    const sync = 'bitmap'
    const job = await startMirror(graph, jobs, {
      ...{ id: 'm', source, target, sync, bitmap },
      ...options,
    })
    return { job, ready: new Promise<void>((resolve) => job.once('ready', resolve)) }
  }
  /** Every place that differs is dirty. */
  const checkBitmap = async () => {
    const [here, there] = [await contentOf(graph, source), await contentOf(graph, target)]
    for (let at = 0; at < size; at += granularity) {
      const end = at + granularity
      if (!here.subarray(at, end).equals(there.subarray(at, end))) expect(bitmap.has(at)).toBe(true)
    }
  }
  return { random, graph, jobs, source, target, guest, bitmap, start, checkBitmap }
}

const modes = ['on-success', 'always', 'never'] as const

test.each(modes)(`%s: the copy is the same in the end (${seedNote})`, async (bitmapMode) => {
  const { graph, target, guest, bitmap, start, checkBitmap } = await setUp(runSeed)
  const before = bitmap.count
  const { job, ready } = await start({ bitmapMode })
  expect(bitmap.busy).toBe("job 'm'")
  guest.start()
  for (let turn = 0; turn < 100; turn++) await setImmediate()
  await guest.stop()
  await ready
  await job.cancel({ soft: true })
  expect((await contentOf(graph, target)).equals(guest.model)).toBe(true)
  if (bitmapMode === 'never') expect(bitmap.count).toBeGreaterThanOrEqual(before)
  else expect(bitmap.count).toBe(0)
  expect(bitmap.busy).toBeUndefined()
  for (let step = 0; step < 4; step++) await guest.step()
  await checkBitmap()
  await graph[Symbol.asyncDispose]()
})

test(`cancelled at random moments, the bitmap knows what differs (${seedNote})`, async () => {
  for (let round = 0; round < 9; round++) {
    const { random, graph, target, guest, bitmap, start, checkBitmap } = await setUp(
      runSeed + round,
    )
    const bitmapMode = modes[round % 3]
    const copyMode = random.chance(0.5) ? 'background' : 'write-blocking'
    const { job } = await start({ bitmapMode, copyMode, speed: random.chance(0.5) ? 3_000_000 : 0 })
    guest.start()
    for (let turns = random.below(60); turns > 0; turns--) await setImmediate()
    await job.cancel()
    await guest.stop()
    await checkBitmap()
    const next = await start({ sync: 'incremental', copyMode })
    await next.ready
    await next.job.cancel({ soft: true })
    expect((await contentOf(graph, target)).equals(guest.model)).toBe(true)
    expect(bitmap.count).toBe(0)
    await graph[Symbol.asyncDispose]()
  }
})

test(`pieces that wait for the speed limit are not forgotten (${seedNote})`, async () => {
  const { graph, start, checkBitmap } = await setUp(runSeed)
  const { job } = await start({ bitmapMode: 'always', speed: 1 })
  for (let turn = 0; turn < 50; turn++) await setImmediate()
  await job.cancel()
  await checkBitmap()
  await graph[Symbol.asyncDispose]()
})

test('only what the bitmap says is copied', async () => {
  const { graph, source, target, bitmap, start } = await setUp(1)
  bitmap.clear()
  const edge = attach(graph, source, ['consistentRead', 'write'])
  await edge.write(3 * granularity, new Uint8Array(granularity).fill(7))
  const { job, ready } = await start({})
  await ready
  expect(job.progress).toMatchObject({ current: granularity, total: granularity })
  await job.cancel({ soft: true })
  const bytes = await contentOf(graph, target)
  expect(bytes.subarray(3 * granularity, 4 * granularity).every((byte) => byte === 7)).toBe(true)
  await graph[Symbol.asyncDispose]()
})

test.each([
  [{ bitmap: undefined }, "a mirror with 'bitmap' needs a bitmap"],
  [{ sync: 'full' }, "a mirror with 'full' does not use a bitmap"],
  [
    { sync: 'incremental', bitmapMode: 'always' },
    "Bitmap sync mode must be 'on-success' when using sync mode 'incremental'",
  ],
] as const)('refuses %o', async (options, message) => {
  const { graph, start } = await setUp(1)
  await expect(start(options)).rejects.toThrow(message)
  await graph[Symbol.asyncDispose]()
})
