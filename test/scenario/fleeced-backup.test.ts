/**
 * Backups with fleecing: guests wait for the spill area, not for a slow target; its room is
 * bounded, and what happens when it is full, or fails, is the user's choice.
 */
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, test } from 'vitest'
import type { ArchiveSink } from '../../src/archive/vma/io/sink.ts'
import { Filter } from '../../src/block/filter.ts'
import type { Io, WriteIo } from '../../src/block/layer.ts'
import { KiB, MiB } from '../../src/bytes/range.ts'
import { drivers } from '../../src/drivers.ts'
import { BlockError } from '../../src/errors.ts'
import type { Edge } from '../../src/graph/edge.ts'
import { Graph } from '../../src/graph/graph.ts'
import type { BlockNode } from '../../src/graph/node.ts'
import { type ArchiveBackupOptions, startArchiveBackup } from '../../src/job/archive-backup.ts'
import { startBackup } from '../../src/job/backup.ts'
import { JobTable } from '../../src/job/job-table.ts'
import { MemoryLayer } from '../../src/protocol/memory.ts'
import { scratchFolder } from '../support/folder.ts'
import { ModelGuest } from '../support/model-guest.ts'
import { Random, seedNote } from '../support/random.ts'
import { until } from '../support/until.ts'

const folder = scratchFolder('fleeced')
let names = 0

/** An archive that takes so many bytes a second, kept in memory. */
class SlowSink implements ArchiveSink {
  readonly #parts: Uint8Array[] = []
  readonly #bytesPerSecond: number
  aborted = false
  /** It takes nothing before. */
  open: Promise<unknown> = Promise.resolve()

  constructor(bytesPerSecond: number) {
    this.#bytesPerSecond = bytesPerSecond
  }

  get bytes(): Buffer {
    return Buffer.concat(this.#parts)
  }

  async write(bytes: Uint8Array): Promise<void> {
    this.#parts.push(Uint8Array.from(bytes))
    await this.open
    await sleep((bytes.length / this.#bytesPerSecond) * 1000)
  }

  async finish(): Promise<void> {}

  async abort(): Promise<void> {
    this.aborted = true
  }
}

interface Disk {
  readonly name: string
  readonly node: BlockNode
  readonly guest: Edge
  readonly before: Buffer
}

async function setUp(sizes: readonly number[]) {
  const random = new Random()
  const graph = new Graph({ drivers })
  const jobs = new JobTable()
  const disks: Disk[] = []
  for (const [index, size] of sizes.entries()) {
    const before = Buffer.from(random.bytes(size))
    // Not all zeroes, whatever the seed: those need no room.
    for (let at = 0; at < size; at += 4096) before.writeUInt32LE(at + 1, at)
    before.fill(0, size / 2, size / 2 + 300_000)
    const name = `disk${index}`
    const { node } = await graph.add('memory', { 'node-name': name }, async () =>
      MemoryLayer.of(before),
    )
    const guest = graph.attach(node, { description: 'a guest', uses: ['consistentRead', 'write'] })
    disks.push({ name, node, guest, before })
  }
  const close = () => graph[Symbol.asyncDispose]()
  return { random, graph, jobs, disks, [Symbol.asyncDispose]: close }
}

type Setting = Awaited<ReturnType<typeof setUp>>

async function begin(
  { graph, jobs, disks }: Setting,
  sink: ArchiveSink,
  options: Partial<ArchiveBackupOptions>,
) {
  return await startArchiveBackup(graph, jobs, { id: 'b', sink, disks, ...options })
}

/** What the archive holds is what the disks were. */
async function expectArchived({ graph, disks }: Setting, sink: SlowSink) {
  const name = `archive${names++}`
  await graph.add('memory', { 'node-name': name }, async () => MemoryLayer.of(sink.bytes))
  for (const { name: device, before } of disks) {
    const shown = await graph.open({ driver: 'vma', device, file: name, 'read-only': true })
    const restored = Buffer.alloc(before.length)
    await shown.read(0, restored)
    expect(restored.equals(before), device).toBe(true)
  }
}

/** Nothing is left of the backup, and guests write as before. */
async function expectUnharmed({ graph, disks }: Setting) {
  expect([...graph.nodes.keys()].filter((name) => !/^(disk|spill)\d$/.test(name))).toEqual([])
  for (const { guest, node } of disks) {
    expect(guest.node).toBe(node)
    await guest.write(0, new Uint8Array(4096).fill(9))
  }
  expect(await readdir(folder)).toEqual([])
}

describe(`a backup with fleecing (${seedNote})`, () => {
  test.each([
    { limit: 64 * MiB, note: 'with room for all' },
    { limit: 3 * 64 * KiB, note: 'with little room' },
    { limit: 0, note: 'with no room' },
  ])('is of one moment of all disks, $note', async ({ limit }) => {
    await using setting = await setUp([3 * MiB, MiB + 512, 2 * MiB])
    const { random, disks } = setting
    const sink = new SlowSink(20 * MiB)
    const backup = await begin(setting, sink, { fleecing: { folder, limit } })
    const guests = disks.map(
      ({ guest, before }) =>
        new ModelGuest(guest, new Random(random.below(2 ** 31)), Buffer.from(before)),
    )
    for (const guest of guests) guest.start()
    await sleep(100)
    expect(backup.job.status).toBe('running')
    await backup.job.done
    for (const guest of guests) await guest.stop()
    expect(backup.spill()?.used).toBe(0)
    expect(backup.spill()?.peak).toBeLessThanOrEqual(limit)
    expect(backup.job.progress).toMatchObject({
      current: 6 * MiB + 512,
      total: 6 * MiB + 512,
    })
    await expectUnharmed(setting)
    await expectArchived(setting, sink)
  })

  test('lets guests overwrite more than the target takes, and keeps the limit', async () => {
    // More than the archive's ring takes at once.
    await using setting = await setUp([48 * MiB])
    const [{ guest, before }] = setting.disks
    const sink = new SlowSink(100 * MiB)
    let full = () => {}
    sink.open = new Promise<void>((resolve) => {
      full = resolve
    })
    const limit = MiB
    const backup = await begin(setting, sink, { fleecing: { folder, limit } })
    const filled = until(() => backup.spill()?.used === limit).then(full)
    const change = Buffer.alloc(64 * KiB, 7)
    for (let at = 0; at < before.length; at += change.length) {
      await guest.write(before.length - change.length - at, change)
      expect(backup.spill()?.used).toBeLessThanOrEqual(limit)
    }
    await filled
    expect(backup.spill()?.peak).toBe(limit)
    await backup.job.done
    await expectArchived(setting, sink)
  })

  test('gives up when the room is full, if it was told to, and the guest goes on', async () => {
    await using setting = await setUp([4 * MiB, MiB])
    const [, { guest }] = setting.disks
    const sink = new SlowSink(2 * MiB)
    const fleecing = { folder, limit: 256 * KiB, onFull: 'give-up' } as const
    const { job } = await begin(setting, sink, { fleecing })
    const started = performance.now()
    await guest.write(0, new Uint8Array(MiB).fill(1))
    expect(performance.now() - started).toBeLessThan(1000)
    await expect(job.done).rejects.toMatchObject({
      code: 'NO_SPACE',
      message: /spill area is full/,
    })
    expect(sink.aborted).toBe(true)
    await expectUnharmed(setting)
  })

  test('ends with an error when the spill area fails, and the guest goes on', async () => {
    await using setting = await setUp([4 * MiB])
    const { graph, disks } = setting
    const spill = await addFaulty(graph, 'spill0', 4 * MiB)
    const sink = new SlowSink(2 * MiB)
    const options = { disks: [{ ...disks[0], spill: spill.node }], fleecing: { folder } }
    const backup = await begin(setting, sink, options)
    spill.layer.failWrites = true
    await disks[0].guest.write(3 * MiB, new Uint8Array(4096).fill(1))
    await expect(backup.job.done).rejects.toMatchObject({ code: 'IO', message: 'the spill broke' })
    expect(backup.spill()?.used).toBe(0)
    await expectUnharmed(setting)
  })

  test('ends with an error when spilled data cannot be read again', async () => {
    await using setting = await setUp([4 * MiB])
    const { graph, disks } = setting
    const spill = await addFaulty(graph, 'spill0', 4 * MiB)
    const sink = new SlowSink(2 * MiB)
    const options = { disks: [{ ...disks[0], spill: spill.node }], fleecing: { folder } }
    const { job } = await begin(setting, sink, options)
    spill.layer.failReads = true
    await disks[0].guest.write(3 * MiB, new Uint8Array(4096).fill(1))
    await expect(job.done).rejects.toMatchObject({ code: 'IO', message: 'the spill broke' })
    await expectUnharmed(setting)
  })

  test('slows the guest down when the disk of the spill area is full', async () => {
    await using setting = await setUp([2 * MiB])
    const { graph, disks } = setting
    const spill = await addFaulty(graph, 'spill0', 4 * MiB)
    spill.layer.full = true
    const sink = new SlowSink(20 * MiB)
    const options = { disks: [{ ...disks[0], spill: spill.node }], fleecing: { folder } }
    const { job } = await begin(setting, sink, options)
    await disks[0].guest.write(0, new Uint8Array(2 * MiB).fill(1))
    await job.done
    await expectArchived(setting, sink)
  })

  test('uses nodes for what is spilled, and gives their room back', async () => {
    await using setting = await setUp([2 * MiB])
    const { graph, disks } = setting
    const memory = new MemoryLayer({ size: 2 * MiB })
    const spill = await graph.add(
      'memory',
      { 'node-name': 'spill0', discard: 'unmap' },
      async () => memory,
    )
    const sink = new SlowSink(10 * MiB)
    const options = { disks: [{ ...disks[0], spill: spill.node }], fleecing: {} }
    const { job } = await begin(setting, sink, options)
    expect(() => spill.node.blockers.check('resize')).toThrow(/busy/)
    await disks[0].guest.write(0, new Uint8Array(2 * MiB).fill(1))
    await job.done
    expect(await memory.image.allocatedSize?.()).toBe(0)
    expect(spill.node.parents.size).toBe(0)
    await expectArchived(setting, sink)
  })

  test('is cancelled with guests waiting', async () => {
    await using setting = await setUp([2 * MiB])
    const [{ guest }] = setting.disks
    const sink = new SlowSink(MiB)
    const { job } = await begin(setting, sink, { fleecing: { folder, limit: 128 * KiB } })
    const writes = Array.from({ length: 8 }, (_, index) =>
      guest.write(MiB + index * 64 * KiB, new Uint8Array(64 * KiB).fill(3)),
    )
    await sleep(20)
    await job.cancel()
    await Promise.all(writes)
    await expectUnharmed(setting)
  })

  test('does not begin without its folder', async () => {
    await using setting = await setUp([MiB])
    const sink = new SlowSink(MiB)
    const begun = begin(setting, sink, { fleecing: { folder: join(folder, 'nowhere') } })
    await expect(begun).rejects.toThrow(/Could not make a spill file in '.*nowhere'/)
    expect(sink.aborted).toBe(true)
    await expectUnharmed(setting)
  })

  test('stands still while it is paused, and goes on', async () => {
    await using setting = await setUp([24 * MiB])
    const [{ guest }] = setting.disks
    const sink = new SlowSink(40 * MiB)
    const { job } = await begin(setting, sink, { fleecing: { folder } })
    await sleep(5)
    job.pause()
    await guest.write(MiB, new Uint8Array(MiB).fill(3))
    await sleep(100)
    const { current } = job.progress
    await sleep(50)
    expect(job.progress.current).toBe(current)
    job.resume()
    await job.done
    await expectArchived(setting, sink)
  })
})

test(`a backup to a node with fleecing holds the moment (${seedNote})`, async () => {
  await using setting = await setUp([3 * MiB])
  const { random, graph, jobs, disks } = setting
  const [{ node, guest, before }] = disks
  const copy = new MemoryLayer({ size: before.length })
  const target = await graph.add('slow', { 'node-name': 'target' }, async () => new Delayed(copy))
  const fleecing = { folder, limit: 512 * KiB }
  const options = { id: 'b', source: node, target: target.node, sync: 'full', fleecing } as const
  const job = await startBackup(graph, jobs, options)
  const model = new ModelGuest(guest, random, Buffer.from(before))
  model.start()
  await job.done
  await model.stop()
  const found = Buffer.alloc(before.length)
  copy.read(0, found, { signal: new AbortController().signal })
  expect(found.equals(before)).toBe(true)
})

class Delayed extends Filter {
  override async write(offset: number, source: Uint8Array, io: WriteIo): Promise<void> {
    await sleep(2)
    await super.write(offset, source, io)
  }
}

class Faulty extends Filter {
  failWrites = false
  failReads = false
  full = false

  override async write(offset: number, source: Uint8Array, io: WriteIo): Promise<void> {
    if (this.failWrites) throw new BlockError('IO', 'the spill broke', { errno: 'EIO' })
    if (this.full) throw new BlockError('NO_SPACE', 'No space left on device', { errno: 'ENOSPC' })
    await super.write(offset, source, io)
  }

  override async read(offset: number, target: Uint8Array, io: Io): Promise<void> {
    if (this.failReads) throw new BlockError('IO', 'the spill broke', { errno: 'EIO' })
    await super.read(offset, target, io)
  }
}

async function addFaulty(graph: Graph, name: string, size: number) {
  return await graph.add(
    'memory',
    { 'node-name': name },
    async () => new Faulty(new MemoryLayer({ size })),
  )
}
