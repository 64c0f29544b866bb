/** `drive-mirror`: to a file that is made for it, with the backing file that it needs. */
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { createImage } from '../../src/create-image.ts'
import { StorageDaemon } from '../../src/daemon/storage-daemon.ts'
import { imagesOf } from '../../src/graph/chain.ts'
import { scratchFolder } from '../support/folder.ts'
import { attach, contentOf, write } from '../support/image-chain.ts'

const size = 1024 * 1024
const folder = scratchFolder('drive-mirror')
let count = 0

async function setUp() {
  const daemon = new StorageDaemon()
  const place = (name: string) => join(folder, `${count}-${name}.qcow2`)
  count++
  const make = async (name: string, backing?: string) => {
    const record =
      backing === undefined ? {} : { backing_file: place(backing), backing_fmt: 'qcow2' }
    await createImage(daemon.graph, {
      filename: place(name),
      format: 'qcow2',
      options: { size, ...record },
    })
    const file = { driver: 'file', filename: place(name) }
    await daemon.execute('blockdev-add', {
      driver: 'qcow2',
      'node-name': name,
      file,
      ...(backing && { backing }),
    })
    return daemon.graph.node(name)
  }
  const base = await make('base')
  await write(daemon.graph, base, 0, new Uint8Array(1000).fill(1))
  const top = await make('top', 'base')
  await write(daemon.graph, top, 65536, new Uint8Array(1000).fill(2))
  const mirror = async (args: Record<string, unknown>) => {
    await daemon.execute('drive-mirror', {
      'job-id': 'j',
      device: 'top',
      target: place('new'),
      'node-name': 'new',
      ...args,
    })
    const job = daemon.jobs.get('j')
    if (job.status !== 'ready') await new Promise<void>((resolve) => job.once('ready', resolve))
    return job
  }
  return { daemon, base, top, mirror, place }
}

test.each([
  ['full', ['new'], undefined],
  ['top', ['new', 'base'], 'base'],
  ['none', ['new', 'top', 'base'], 'top'],
] as const)('sync %s: the copy takes over with its backing file', async (sync, chain, recorded) => {
  const { daemon, top, mirror, place } = await setUp()
  const guest = attach(daemon.graph, top)
  const job = await mirror({ sync })
  await guest.write(2 * 65536, new Uint8Array(1000).fill(3))
  await job.complete()
  const copy = daemon.graph.node('new')
  expect(guest.node).toBe(copy)
  expect(imagesOf(copy).map(({ name }) => name)).toEqual(chain)
  const bytes = await contentOf(daemon.graph, copy)
  expect([bytes[0], bytes[65536], bytes[2 * 65536]]).toEqual([1, 2, 3])
  const { recorded: record } = copy.layer.backingLink!
  expect(record?.filename).toBe(recorded && place(recorded))
  await daemon[Symbol.asyncDispose]()
})

test('without completion the file is closed, and complete', async () => {
  const { daemon, top, mirror } = await setUp()
  const guest = attach(daemon.graph, top)
  const job = await mirror({ sync: 'full' })
  await job.cancel({ soft: true })
  expect(guest.node).toBe(top)
  expect(daemon.graph.nodes.has('new')).toBe(false)
  const again = await mirror({ sync: 'full', mode: 'existing' })
  await again.complete()
  expect((await contentOf(daemon.graph, daemon.graph.node('new')))[65536]).toBe(2)
  await daemon[Symbol.asyncDispose]()
})
