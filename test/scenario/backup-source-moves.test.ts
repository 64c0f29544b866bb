/** A backup goes on while its source gets an overlay, and even when the source itself is gone. */
import { expect, test } from 'vitest'
import { drivers } from '../../src/drivers.ts'
import { Graph } from '../../src/graph/graph.ts'
import { putOverlay } from '../../src/graph/overlay.ts'
import { startBackup } from '../../src/job/backup.ts'
import { JobTable } from '../../src/job/job-table.ts'
import { startStream } from '../../src/job/stream.ts'
import { attach, contentOf, memoryImage } from '../support/image-chain.ts'

const KiB = 1024
const size = 4 * KiB * KiB

/** `top` holds the second half of the disk, and an overlay has been put on it while it is backed up. */
async function underWay(sync: 'full' | 'top') {
  const graph = new Graph({ drivers })
  const jobs = new JobTable()
  const base = await memoryImage(graph, 'base', { size })
  const below = attach(graph, base)
  await below.write(0, new Uint8Array(size).fill(1))
  await below[Symbol.asyncDispose]()
  const source = await memoryImage(graph, 'top', { size, backing: base })
  const target = await graph.open({ driver: 'memory', 'node-name': 'target', size })
  const guest = attach(graph, source, ['consistentRead', 'write'])
  await guest.write(size / 2, new Uint8Array(size / 2).fill(2))
  const before = await contentOf(graph, source)
  // So slow that hardly anything is copied before the speed is changed.
  const job = await startBackup(graph, jobs, { id: 'b', source, target, sync, speed: 1 })
  await putOverlay(graph, source, await memoryImage(graph, 'over', { size }))
  await guest.write(size / 2, new Uint8Array(size / 4).fill(3))
  return { graph, jobs, source, target, before, job }
}

test('all of it, with the source streamed into its overlay and closed', async () => {
  const { graph, jobs, target, before, job } = await underWay('full')
  const overlay = graph.node('over')
  await startStream(graph, jobs, { id: 's', node: overlay }).then(({ done }) => done)
  await graph.remove('top')
  job.setSpeed(0)
  await job.done
  expect((await contentOf(graph, target)).equals(before)).toBe(true)
  await graph[Symbol.asyncDispose]()
})

test('what its own image held, which is not what the overlay holds', async () => {
  const { graph, target, before, job } = await underWay('top')
  job.setSpeed(0)
  await job.done
  const copy = await contentOf(graph, target)
  expect(copy.subarray(size / 2).equals(before.subarray(size / 2))).toBe(true)
  expect(copy.subarray(0, size / 2).every((byte) => byte === 0)).toBe(true)
  await graph[Symbol.asyncDispose]()
})
