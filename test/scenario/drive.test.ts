/** A drive of a guest: media that come and go, errors and what is done about them, times. */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { Filter } from '../../src/block/filter.ts'
import type { WriteIo } from '../../src/block/layer.ts'
import { drivers } from '../../src/drivers.ts'
import { Drive } from '../../src/graph/drive.ts'
import type { DriveError, DriveOptions } from '../../src/graph/drive-options.ts'
import { Graph } from '../../src/graph/graph.ts'
import { scratchFolder } from '../support/folder.ts'

const folder = scratchFolder('drive')
let files = 0

async function setUp(options: Partial<DriveOptions> = {}) {
  const graph = new Graph({ drivers })
  const drive = new Drive(graph, { name: 'd0', removable: true, ...options })
  const failed: DriveError[] = []
  drive.on('requestFailed', (error) => failed.push(error))
  return { graph, drive, failed, [Symbol.asyncDispose]: () => graph[Symbol.asyncDispose]() }
}

/** A disk of 64 KiB whose requests of a kind fail, once or always, with an errno. */
async function failing(graph: Graph, rule?: { event: string; errno: number; once?: boolean }) {
  const filename = join(folder, `${files++}.raw`)
  await writeFile(filename, new Uint8Array(65536))
  return await graph.open({
    driver: 'raw',
    'node-name': `disk${files}`,
    file: {
      driver: 'blkdebug',
      image: { driver: 'file', filename },
      ...(rule && {
        'inject-error': [{ once: false, immediately: false, ...rule, iotype: iotype(rule.event) }],
      }),
    },
  })
}

function iotype(event: string): string {
  return event === 'read_aio' ? 'read' : 'write'
}

const sector = () => new Uint8Array(512)

it('has no medium until one is put in, and none after it is ejected', async () => {
  await using set = await setUp()
  const { graph, drive } = set
  const trays: boolean[] = []
  drive.on('tray', (open) => trays.push(open))
  await expect(drive.read(0, sector())).rejects.toMatchObject({ errno: 'ENOMEDIUM' })
  await drive.insert(await failing(graph))
  await drive.write(512, sector().fill(7))
  const read = sector()
  await drive.read(512, read)
  expect(read).toEqual(sector().fill(7))
  await expect(drive.insert(await failing(graph))).rejects.toMatchObject({ code: 'BUSY' })
  await drive.eject()
  expect(drive.inserted).toBe(false)
  await expect(drive.flush()).rejects.toMatchObject({ errno: 'ENOMEDIUM' })
  expect(trays).toEqual([false, true])
})

it('keeps a medium that its guest has locked, unless forced', async () => {
  await using set = await setUp()
  const { graph, drive } = set
  const [first, second] = [await failing(graph), await failing(graph)]
  await drive.insert(first)
  drive.lock(true)
  await expect(drive.eject()).rejects.toMatchObject({ code: 'BUSY' })
  await expect(drive.change(second)).rejects.toMatchObject({ code: 'BUSY' })
  expect(drive.node).toBe(first)
  await drive.change(second, { force: true })
  expect(drive.node).toBe(second)
  expect(first.parents.size).toBe(0)
})

it('keeps the medium it has when another cannot be used, and one that is not removable', async () => {
  await using set = await setUp()
  const { graph, drive } = set
  const first = await failing(graph)
  await drive.insert(first)
  const taken = await failing(graph)
  await using _alone = graph.attach(taken, { description: 'alone', uses: ['write'], shares: [] })
  await expect(drive.change(taken)).rejects.toMatchObject({ code: 'PERMISSION' })
  expect(drive.node).toBe(first)
  const fixed = new Drive(graph, { name: 'fixed' })
  await fixed.insert(await failing(graph))
  await expect(fixed.eject()).rejects.toThrow("Device 'fixed' is not removable")
})

it('reports, ignores or holds what fails, as it is told', async () => {
  await using set = await setUp({ onReadError: 'ignore', onWriteError: 'report' })
  const { graph, drive, failed } = set
  await drive.insert(await failing(graph, { event: 'read_aio', errno: 5 }))
  await drive.read(0, sector())
  await drive.change(await failing(graph, { event: 'write_aio', errno: 5 }))
  await expect(drive.write(0, sector())).rejects.toMatchObject({ errno: 'EIO' })
  expect(failed.map(({ operation, action }) => [operation, action])).toEqual([
    ['read', 'ignore'],
    ['write', 'report'],
  ])
  expect(drive.statistics.read.failed).toBe(1)
  expect(drive.statistics.write).toMatchObject({ failed: 1, operations: 0 })
})

it('waits for room on ENOSPC, with all requests, and goes on with them', async () => {
  await using set = await setUp()
  const { graph, drive, failed } = set
  const node = await failing(graph, { event: 'write_aio', errno: 28, once: true })
  await drive.insert(node)
  let done = 0
  const writes = [drive.write(0, sector().fill(1)).then(() => done++)]
  await new Promise((resolve) => drive.once('requestFailed', resolve))
  writes.push(drive.write(512, sector().fill(2)).then(() => done++))
  expect(drive.ioStatus).toBe('nospace')
  await new Promise((resolve) => setTimeout(resolve, 20))
  expect(done).toBe(0)
  drive.resume()
  await Promise.all(writes)
  expect(drive.ioStatus).toBe('ok')
  expect(failed).toMatchObject([{ operation: 'write', action: 'stop' }])
  const read = sector()
  await drive.read(512, read)
  expect(read[0]).toBe(2)
  expect(drive.statistics.write).toMatchObject({ operations: 2, bytes: 1024, failed: 0 })
  // The first of them waited.
  expect(drive.statistics.write.longestNs).toBeGreaterThan(20e6 * 0.9)
})

it('fails what waits when the medium is taken out', async () => {
  await using set = await setUp({ onReadError: 'stop' })
  const { graph, drive } = set
  await drive.insert(await failing(graph, { event: 'read_aio', errno: 5 }))
  const read = drive.read(0, sector())
  read.catch(() => {})
  await new Promise((resolve) => drive.once('requestFailed', resolve))
  expect(drive.ioStatus).toBe('failed')
  await drive.eject()
  await expect(read).rejects.toMatchObject({ errno: 'ENOMEDIUM' })
})

it('lets a request that waits be cancelled', async () => {
  await using set = await setUp({ onReadError: 'stop' })
  const { graph, drive } = set
  await drive.insert(await failing(graph, { event: 'read_aio', errno: 5, once: true }))
  const stopped = new AbortController()
  const waiting = new AbortController()
  const reads = [drive.read(0, sector(), stopped)]
  await new Promise((resolve) => drive.once('requestFailed', resolve))
  reads.push(drive.read(512, sector(), waiting))
  stopped.abort(new Error('no more'))
  waiting.abort(new Error('nor this'))
  const outcomes = await Promise.allSettled(reads)
  expect(outcomes).toMatchObject([
    { reason: { message: 'no more' } },
    { reason: { message: 'nor this' } },
  ])
  expect(drive.statistics.read).toMatchObject({ failed: 2, operations: 0 })
  expect(drive.ioStatus).toBe('failed')
  drive.resume()
  await drive.read(0, sector())
})

/** A medium in a drive of this machine, which is only told of. */
class TestDrive extends Filter {
  inserted = true
  readonly told: string[] = []
  readonly flags: boolean[] = []
  readonly medium = {
    isInserted: async () => this.inserted,
    wasInserted: true,
    eject: async (open: boolean) => void this.told.push(open ? 'open' : 'close'),
    lock: async (locked: boolean) => void this.told.push(locked ? 'lock' : 'unlock'),
  }

  override write(offset: number, source: Uint8Array, io: WriteIo) {
    this.flags.push(io.fua)
    return super.write(offset, source, io)
  }

  override get capabilities() {
    return { ...super.capabilities, fua: 'native' as const }
  }

  async ioctl(request: number, argument: Uint8Array | number) {
    return request + Number(argument)
  }
}

async function testDrive(graph: Graph) {
  const below = await graph.open({ driver: 'null-co', 'node-name': 'below', size: 65536 })
  return await graph.add(
    'test-drive',
    { 'node-name': 'sr0' },
    async (context) => new TestDrive(await context.child('filtered', below.name)),
  )
}

it('hands tray, lock and ioctl on to a drive of this machine, and knows whether it is empty', async () => {
  await using set = await setUp()
  const { graph, drive } = set
  const { node, layer } = await testDrive(graph)
  expect(await drive.hasMedium()).toBe(false)
  await expect(drive.ioctl(1, 2)).rejects.toMatchObject({ errno: 'ENOMEDIUM' })
  await drive.insert(node)
  expect(await drive.hasMedium()).toBe(true)
  await drive.lock(true)
  await expect(drive.moveTray(true)).rejects.toMatchObject({ code: 'BUSY' })
  await drive.lock(false)
  await drive.moveTray(true)
  layer.inserted = false
  expect(await drive.hasMedium()).toBe(false)
  await drive.moveTray(false)
  expect(layer.told).toEqual(['lock', 'unlock', 'open', 'close'])
  expect(await drive.ioctl(40, 2)).toBe(42)
  await drive.change(await failing(graph))
  await expect(drive.ioctl(40, 2)).rejects.toMatchObject({ code: 'UNSUPPORTED', errno: 'ENOTSUP' })
})

it('keeps writes in no cache where the guest has turned that off', async () => {
  await using set = await setUp({ writeCache: false })
  const { graph, drive } = set
  const { node, layer } = await testDrive(graph)
  await drive.insert(node)
  await drive.write(0, sector())
  drive.writeCache = true
  await drive.write(0, sector())
  expect(layer.flags).toEqual([true, false])
})

it('takes whole blocks of the guest only', async () => {
  await using set = await setUp({ blockSize: 4096, onWriteError: 'ignore' })
  const { graph, drive } = set
  await drive.insert(await failing(graph))
  await expect(drive.write(512, new Uint8Array(4096))).rejects.toMatchObject({
    code: 'INVALID_ARGUMENT',
  })
  await expect(drive.read(0, sector())).rejects.toMatchObject({ errno: 'EINVAL' })
  await drive.write(4096, new Uint8Array(8192))
  expect(drive.statistics.write).toMatchObject({ invalid: 1, failed: 0, operations: 1 })
})

it('makes one request of neighbours that come together, and keeps the order of overlapping ones', async () => {
  await using set = await setUp()
  const { graph, drive } = set
  const node = await failing(graph)
  await drive.insert(node)
  const at = (offset: number, fill: number, length = 512) => ({
    offset,
    bytes: new Uint8Array(length).fill(fill),
  })
  await drive.writeMany([at(1024, 3), at(0, 1), at(512, 2), at(4096, 4)])
  expect(node.statistics.write.operations).toBe(2)
  expect(drive.statistics.write).toMatchObject({ operations: 2, merged: 2, bytes: 2048 })
  const parts = [at(4096, 0), at(512, 0), at(0, 0), at(1024, 0), at(1536, 9)]
  await drive.readMany(parts)
  expect(parts.map(({ bytes }) => bytes[0])).toEqual([4, 2, 1, 3, 0])
  expect(node.statistics.read.operations).toBe(2)
  await drive.writeMany([at(0, 7, 1024), at(512, 8)])
  await drive.readMany(parts)
  expect(parts.map(({ bytes }) => bytes[511])).toEqual([4, 8, 7, 3, 0])
  await expect(drive.writeMany([at(0, 1), at(65536, 1)])).rejects.toMatchObject({
    code: 'OUT_OF_RANGE',
  })
})
