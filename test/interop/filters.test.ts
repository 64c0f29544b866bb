/** Filters in a storage daemon, driven by the same QMP and guests as Debian's. */
import { randomFillSync } from 'node:crypto'
import { mkdirSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { DaemonPair, storageDaemon } from '../support/daemon-pair.ts'
import { scratchFolder } from '../support/folder.ts'
import { Random, seedNote } from '../support/random.ts'

const folder = scratchFolder('filters')
const seed = join(folder, 'seed')
mkdirSync(seed)
writeFileSync(join(seed, 'disk.raw'), randomFillSync(Buffer.alloc(1024 * 1024)))
for (const name of ['a.raw', 'b.raw', 'c.raw']) {
  writeFileSync(join(seed, name), '')
  truncateSync(join(seed, name), 1024 * 1024)
}
let pairs = 0

async function start(): Promise<DaemonPair> {
  return await DaemonPair.start(join(folder, `pair${pairs++}`), seed)
}

const file = (filename: string) => ({ driver: 'file', filename })

storageDaemon.describe(`copy-before-write and snapshot-access (${seedNote})`, () => {
  it('show the same old disk to a reader', async () => {
    const random = new Random()
    await using pair = await start()
    await pair.same('blockdev-add', { ...file('disk.raw'), 'node-name': 'disk' })
    await pair.same('blockdev-add', { ...file('a.raw'), 'node-name': 'kept', discard: 'unmap' })
    const cbw = { driver: 'copy-before-write', 'node-name': 'cbw', file: 'disk', target: 'kept' }
    await pair.same('blockdev-add', { ...cbw, discard: 'unmap' })
    await pair.same('blockdev-add', {
      driver: 'snapshot-access',
      'node-name': 'snap',
      file: 'cbw',
      discard: 'unmap',
    })
    await pair.same('blockdev-add', {
      driver: 'snapshot-access',
      'node-name': 'none',
      file: 'disk',
    })
    for (const node of ['cbw', 'snap']) await pair.export(node)
    for (let round = 0; round < 6; round++) {
      const range = () => random.range(1024 * 1024, 512, 200_000).join(' ')
      // No zeroing: QEMU 7.2 was seen to show zeroes of the guest in the old disk afterwards
      // (VARVE_SEED=1442285606); ours is compared with the old disk in fleecing.test.ts.
      await pair.guest('cbw', [`write -P ${round} ${range()}`, `write -P 9 ${range()}`])
      await pair.guest('snap', [`read -v ${range()}`, `read -v ${range()}`])
    }
  })

  it('refuse alike', async () => {
    await using pair = await start()
    await pair.same('blockdev-add', { driver: 'snapshot-access', 'node-name': 'x' })
    await pair.same('blockdev-add', { driver: 'snapshot-access', 'node-name': 'x', file: 'nobody' })
    await pair.same('blockdev-add', { ...file('disk.raw'), 'node-name': 'disk' })
    await pair.same('blockdev-add', { ...file('a.raw'), 'node-name': 'a' })
    const cbw = { driver: 'copy-before-write', 'node-name': 'cbw', file: 'disk', target: 'a' }
    await pair.same('blockdev-add', { ...cbw, 'on-cbw-error': 'x' })
    await pair.same('blockdev-add', { ...cbw, 'cbw-timeout': -1 })
    await pair.same('blockdev-add', cbw)
    await pair.same('blockdev-del', { 'node-name': 'disk' })
  })
})

storageDaemon.it('blkdebug takes its rules by QMP', async () => {
  await using pair = await start()
  const image = file('disk.raw')
  const add = { driver: 'blkdebug', 'node-name': 'bad', image }
  await pair.same('blockdev-add', { ...add, 'inject-error': [{ event: 'x' }] })
  await pair.same('blockdev-add', { ...add, 'inject-error': [{ event: 'none', iotype: 'x' }] })
  await pair.same('blockdev-add', { ...add, 'set-state': [{ event: 'none' }] })
  await pair.same('blockdev-add', { ...add, align: 3 })
  await pair.same('blockdev-add', { ...add, 'take-child-perms': ['x'] })
  await pair.same('blockdev-add', {
    ...add,
    'inject-error': [
      { event: 'pwritev', state: 2, errno: 28, once: true },
      { event: 'none', iotype: 'read', sector: 8 },
    ],
    'set-state': [{ event: 'pwritev_done', state: 1, new_state: 2 }],
  })
  await pair.export('bad')
  await pair.guest('bad', ['write 0 512', 'write 0 512', 'write 0 1k'])
  // QEMU lets go of a client whose read fails.
  await pair.guest('bad', ['read 0 4k', 'read 4k 512'])
  // Permissions taken and not shared are in force.
  await pair.same('blockdev-add', { ...file('b.raw'), 'node-name': 'b' })
  const greedy = { driver: 'blkdebug', 'node-name': 'greedy', image: 'b' }
  const unshared = { 'take-child-perms': ['write'], 'unshare-child-perms': ['write'] }
  await pair.same('blockdev-add', { ...greedy, ...unshared })
  await pair.same('blockdev-add', { ...greedy, ...unshared, 'node-name': 'other' })
})

storageDaemon.it('throttle groups are objects with properties', async () => {
  await using pair = await start()
  const sorted = (answer: Record<string, unknown>) => {
    const { return: value } = answer
    return Array.isArray(value) ? value.map((each) => JSON.stringify(each)).sort() : answer
  }
  const group = { 'qom-type': 'throttle-group', id: 't' }
  await pair.same('object-add', { ...group, 'x-bps-total': 5, 'x-bps-read': 5 })
  await pair.same('object-add', { ...group, 'x-bps-total': -5 })
  await pair.same('object-add', { ...group, limits: { 'bps-total': 1000, x: 1 } })
  await pair.same('object-add', { ...group, limits: { 'iops-size': 1000 } })
  await pair.same('object-add', { ...group, limits: { 'bps-total': 1e9 } })
  await pair.same('object-add', group)
  for (const path of ['t', '/objects/t', '/objects', '/', '/objects/x', 'x', '/x/t']) {
    await pair.same('qom-list', { path }, sorted)
  }
  const set = (property: string, value: unknown) =>
    pair.same('qom-set', { path: 't', property, value })
  const get = (property: string) => pair.same('qom-get', { path: '/objects/t', property })
  await set('x-bps-total', 5)
  await set('limits', { 'iops-total': 100 })
  await set('limits', { 'iops-read': 100 })
  await set('limits', { 'iops-total-max': 1 })
  await set('limits', { 'iops-total-max-length': 3 })
  await set('limits', { 'iops-total-max': 200, 'iops-total-max-length': 3 })
  await set('limits', { nothing: 1 })
  await set('limits', 1)
  await set('type', 'x')
  await set('nothing', 1)
  for (const property of ['limits', 'x-bps-total', 'x-iops-total-max', 'type', 'nothing']) {
    await get(property)
  }
  const node = { driver: 'throttle', 'node-name': 'slow', file: file('disk.raw') }
  await pair.same('blockdev-add', { ...node, 'throttle-group': 'nobody' })
  await pair.same('blockdev-add', node)
  await pair.same('blockdev-add', { ...node, 'throttle-group': 't' })
  await pair.same('object-del', { id: 't' })
  await pair.same('blockdev-del', { 'node-name': 'slow' })
  await pair.same('object-del', { id: 't' })
  await pair.same('object-del', { id: 't' })
  expect(await pair.sameEvents()).toEqual([])
})
