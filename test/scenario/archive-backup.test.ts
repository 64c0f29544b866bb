/** Several disks in one archive, all of one moment, while guests write to them. */
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { expect, test } from 'vitest'
import { openSink } from '../../src/archive/vma/io/open-sink.ts'
import type { ArchiveSink } from '../../src/archive/vma/io/sink.ts'
import { drivers } from '../../src/drivers.ts'
import { BlockError } from '../../src/errors.ts'
import { Graph } from '../../src/graph/graph.ts'
import { startArchiveBackup } from '../../src/job/archive-backup.ts'
import { JobTable } from '../../src/job/job-table.ts'
import { Random, seedNote } from '../support/random.ts'

const sizes = [3 * 1024 * 1024, 1024 * 1024 + 512]

async function setUp() {
  const random = new Random()
  const graph = new Graph({ drivers })
  const jobs = new JobTable()
  const folder = await mkdtemp(path.join(tmpdir(), 'varve-'))
  const disks = []
  for (const [index, size] of sizes.entries()) {
    const node = await graph.open({ driver: 'memory', 'node-name': `disk${index}`, size })
    const guest = graph.attach(node, { description: 'a guest', uses: ['consistentRead', 'write'] })
    for (let step = 0; step < 10; step++) {
      const [offset, length] = random.range(size, 512, 200_000)
      await guest.write(offset, random.bytes(length))
    }
    const before = Buffer.alloc(size)
    await guest.read(0, before)
    disks.push({ name: `drive-scsi${index}`, node, guest, before, size })
  }
  const tearDown = async () => {
    await graph[Symbol.asyncDispose]()
    await rm(folder, { recursive: true })
  }
  return { random, graph, jobs, folder, disks, tearDown, archive: path.join(folder, 'out.vma') }
}

test(`all disks are those of the moment the backup began (${seedNote})`, async () => {
  const { random, graph, jobs, disks, archive, tearDown } = await setUp()
  const backup = await startArchiveBackup(graph, jobs, {
    id: 'b0',
    sink: await openSink(archive),
    disks,
    configs: [{ name: 'vm.conf', data: Buffer.from('cores: 2\n') }],
  })
  for (let step = 0; step < 40; step++) {
    const { guest, size } = disks[random.below(disks.length)]
    const [offset, length] = random.range(size, 512, 100_000)
    await guest.write(offset, random.bytes(length))
  }
  await backup.job.done

  for (const { name, before, size } of disks) {
    const file = { driver: 'file', filename: archive }
    const stored = await graph.open({ driver: 'vma', device: name, file, 'read-only': true })
    const edge = graph.attach(stored, { description: 'the test', uses: ['consistentRead'] })
    const restored = Buffer.alloc(size)
    await edge.read(0, restored)
    expect(restored.equals(before), name).toBe(true)
  }
  expect(disks.map(({ guest, node }) => guest.node === node)).toEqual([true, true])
  await tearDown()
})

test('when the archive cannot be written the guest goes on, and nothing is left behind', async () => {
  const { graph, jobs, disks, folder, tearDown } = await setUp()
  const backup = await startArchiveBackup(graph, jobs, { id: 'b0', sink: fullSink(), disks })
  for (const { guest } of disks) await guest.write(0, new Uint8Array(65536).fill(7))
  await expect(backup.job.done).rejects.toMatchObject({ code: 'NO_SPACE' })

  const [{ guest, node, size }] = disks
  await guest.write(size - 512, new Uint8Array(512).fill(8))
  expect(guest.node).toBe(node)
  expect([...graph.nodes.keys()].sort()).toEqual(['disk0', 'disk1'])
  expect(await readdir(folder)).toEqual([])
  await tearDown()
})

test('a cancelled backup leaves neither an archive nor a filter', async () => {
  const { graph, jobs, disks, folder, archive, tearDown } = await setUp()
  const sink = await openSink(archive)
  const { job } = await startArchiveBackup(graph, jobs, { id: 'b0', sink, disks, speed: 1000 })
  await job.cancel()
  expect(await readdir(folder)).toEqual([])
  expect([...graph.nodes.keys()].sort()).toEqual(['disk0', 'disk1'])
  await tearDown()
})

/** Takes the header, then says that its disk is full. */
function fullSink(): ArchiveSink {
  let writes = 0
  return {
    async write() {
      if (writes++ > 0) throw new BlockError('NO_SPACE', 'out.vma: No space left on device')
    },
    async finish() {},
    async abort() {},
  }
}
