/** A drive of a guest: media that come and go, errors and what is done about them, times. */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { drivers } from '../../src/drivers.ts'
import { Drive, type DriveError, type DriveOptions } from '../../src/graph/drive.ts'
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
