/** Transactions of the daemon: one moment for several disks, and jobs that end alike. */
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, it } from 'vitest'
import { MiB } from '../../src/bytes/range.ts'
import { StorageDaemon } from '../../src/daemon/storage-daemon.ts'

const size = 4 * MiB

async function daemonWith(...names: string[]): Promise<StorageDaemon> {
  const daemon = new StorageDaemon()
  for (const name of names) {
    await daemon.execute('blockdev-add', { driver: 'memory', 'node-name': name, size })
  }
  return daemon
}

function backup(device: string, target: string, more: object = {}) {
  const data = { 'job-id': `job-${device}`, device, target, sync: 'full', ...more }
  return { type: 'blockdev-backup', data }
}

it('backs several disks up as they are in one moment', async () => {
  await using daemon = await daemonWith('a', 'b', 'copy-a', 'copy-b')
  const { graph } = daemon
  const edges = ['a', 'b'].map((name) =>
    graph.attach(graph.node(name), {
      description: 'a guest',
      uses: ['consistentRead', 'write'],
    }),
  )
  // The guest writes a number to the first disk, then the same to the second, again and again.
  let stop = false
  const guest = (async () => {
    for (let number = 1; !stop; number++) {
      const block = new Uint8Array(512).fill(number % 251)
      for (const edge of edges) await edge.write(0, block)
      await sleep(0)
    }
  })()
  await sleep(20)
  const actions = [backup('a', 'copy-a'), backup('b', 'copy-b')]
  await daemon.execute('transaction', { actions })
  const jobs = [...daemon.jobs.jobs.values()]
  expect(jobs).toHaveLength(2)
  await Promise.all(jobs.map((job) => job.done))
  stop = true
  await guest
  const [first, second] = await Promise.all(
    ['copy-a', 'copy-b'].map(async (name) => {
      const block = new Uint8Array(512)
      await graph.node(name).read(0, block)
      return block[0]
    }),
  )
  // The second disk is never ahead, and at most one write behind.
  expect([0, 1]).toContain((first - second + 251) % 251)
  for (const edge of edges) await edge[Symbol.asyncDispose]()
})

it('starts no job when one of them cannot be prepared', async () => {
  await using daemon = await daemonWith('a', 'b', 'copy-a')
  const actions = [backup('a', 'copy-a'), backup('b', 'nowhere')]
  await expect(daemon.execute('transaction', { actions })).rejects.toThrow()
  expect(daemon.jobs.jobs.size).toBe(0)
  expect([...daemon.graph.nodes.keys()].sort()).toEqual(['a', 'b', 'copy-a'])
})

it('cancels the others when one of a group fails', async () => {
  await using daemon = await daemonWith('a', 'b', 'copy-a', 'copy-b')
  await daemon.graph.node('b').write(0, new Uint8Array(size).fill(1))
  const jobs = [
    backup('a', 'copy-a', { 'auto-dismiss': false }),
    backup('b', 'copy-b', { 'auto-dismiss': false, speed: 1 }),
  ]
  await daemon.execute('transaction', {
    actions: jobs,
    properties: { 'completion-mode': 'grouped' },
  })
  const [first, second] = ['job-a', 'job-b'].map((id) => daemon.jobs.get(id))
  while (first.status !== 'waiting' && second.status === 'running') await sleep(5)
  await second.cancel()
  await expect(first.done).rejects.toThrow(/cancelled/)
  expect([first.status, second.status]).toEqual(['concluded', 'concluded'])
  expect(daemon.graph.nodes.size).toBe(4)
})

it('lets a group end well together', async () => {
  await using daemon = await daemonWith('a', 'b', 'copy-a', 'copy-b')
  const actions = [backup('a', 'copy-a'), backup('b', 'copy-b')]
  await daemon.execute('transaction', { actions, properties: { 'completion-mode': 'grouped' } })
  const ended: string[] = []
  const jobs = [...daemon.jobs.jobs.values()]
  for (const job of jobs) job.on('status', (status) => ended.push(status))
  await Promise.all(jobs.map((job) => job.done))
  // None is final before the work of both is done.
  expect(ended.lastIndexOf('waiting')).toBeLessThan(ended.indexOf('concluded'))
})
