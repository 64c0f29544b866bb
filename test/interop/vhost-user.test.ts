/**
 * Disks over vhost-user-blk: what a client and its guest find, whatever they send, as with Debian's
 * qemu-storage-daemon; what is refused; what the disks hold afterwards.
 */
import { execFile, execFileSync } from 'node:child_process'
import { existsSync, mkdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { DaemonPair, storageDaemon } from '../support/daemon-pair.ts'
import { scratchFolder } from '../support/folder.ts'
import { varveDaemon } from '../support/qmp-talk.ts'
import { Random, seedNote } from '../support/random.ts'

const uses = fileURLToPath(new URL('../support/vhost-user-uses.py', import.meta.url))
const inherited = fileURLToPath(new URL('../support/vhost-user-inherited.py', import.meta.url))
const folder = scratchFolder('vhost-user')
const tools = peer('qemu-storage-daemon', 'qemu-img', 'qemu-io', 'python3')

const nodes = {
  raw: { driver: 'file', 'node-name': 'raw', filename: 'disk.raw', discard: 'unmap' },
  qcow2: {
    driver: 'qcow2',
    'node-name': 'qcow2',
    discard: 'unmap',
    file: { driver: 'file', filename: 'disk.qcow2' },
  },
  odd: { driver: 'null-co', 'node-name': 'odd', size: 1000, 'read-zeroes': true },
}

let number = 0

/** Both daemons with the same disks. */
async function start(): Promise<DaemonPair> {
  const root = join(folder, `${number++}`)
  const seed = join(root, 'seed')
  mkdirSync(seed, { recursive: true })
  for (const format of ['raw', 'qcow2']) {
    execFileSync('qemu-img', ['create', '-q', '-f', format, `disk.${format}`, '64M'], { cwd: seed })
  }
  const pair = await DaemonPair.start(root, seed)
  for (const node of Object.values(nodes)) await pair.same('blockdev-add', node)
  return pair
}

const socket = { type: 'unix', path: 'v.sock' }
const exported = (more: object = {}) => ({
  ...{ type: 'vhost-user-blk', id: 'e', 'node-name': 'raw', addr: socket },
  ...more,
})

/** What a client tells that does something with both, and is told the same. */
async function both(pair: DaemonPair, use: string, seed = 0): Promise<string> {
  const [ours, theirs] = await Promise.all(
    Object.values(pair.folders).map(async (cwd) => {
      const args = [uses, 'v.sock', use, `${seed}`]
      const { stdout } = await promisify(execFile)('python3', args, { cwd, timeout: 100_000 })
      return stdout
    }),
  )
  expect(ours).toBe(theirs)
  return ours
}

tools.describe('a vhost-user-blk export', () => {
  it.each([
    [{ writable: true }],
    [{}],
    [{ writable: true, 'logical-block-size': 4096, 'num-queues': 4 }],
    [{ writable: true, 'node-name': 'qcow2' }],
  ])('is a device like QEMU’s: %j', async (options) => {
    await using pair = await start()
    await pair.same('block-export-add', exported(options))
    await pair.same('query-block-exports')
    for (const use of ['facts', 'requests']) await both(pair, use)
    await pair.same('block-export-del', { id: 'e' })
    await pair.sameEvents()
    for (const cwd of Object.values(pair.folders))
      expect(existsSync(join(cwd, 'v.sock'))).toBe(false)
  })

  it('answers, refuses and drops the same rings and messages', async () => {
    await using pair = await start()
    await pair.same('block-export-add', exported({ writable: true }))
    expect(await both(pair, 'rings')).toContain('loop [] ee gone')
    expect(await both(pair, 'messages')).toContain('capacity gone')
  })

  it(`holds what is written, many requests at a time (${seedNote})`, async () => {
    await using pair = await start()
    const random = new Random()
    for (const node of ['raw', 'qcow2']) {
      const more = { writable: true, 'num-queues': 4, 'node-name': node, id: node }
      await pair.same('block-export-add', exported(more))
      await both(pair, 'random', random.below(2 ** 31))
      await pair.same('block-export-del', { id: node })
      await pair.same('blockdev-del', { 'node-name': node })
    }
    for (const cwd of Object.values(pair.folders)) {
      execFileSync('qemu-img', ['check', '-q', 'disk.qcow2'], { cwd })
    }
  })

  it('is refused in the same words', async () => {
    await using pair = await start()
    const block = (size: number) => ({ 'logical-block-size': size })
    for (const more of [
      { 'num-queues': 0 },
      { 'num-queues': 65536 },
      { 'num-queues': -1 },
      ...[-1, 1, 511, 513, 1000, 2 ** 22, 2 ** 32, 2 ** 53].map(block),
      { 'num-queues': 0, ...block(1) },
      { 'num-queues': 0, addr: { type: 'fd', str: '3' } },
      { ...block(1), addr: { type: 'fd', str: '3' } },
      { 'num-queues': 0, addr: { type: 'vsock', cid: '1', port: '1' } },
      { 'num-queues': 0, 'node-name': 'nobody' },
      { addr: { type: 'unix', path: 'nowhere/v.sock' } },
      { addr: { type: 'unix', path: 'p'.repeat(109) } },
      { addr: { type: 'inet', host: '127.0.0.1', port: '0' } },
      { addr: { type: 'vsock', cid: '1', port: '1' } },
      { addr: { type: 'fd', str: '99' } },
      { addr: { type: 'fd', str: 'x' } },
      { addr: undefined },
      { name: 'x' },
      { id: '1' },
      { iothread: 'nobody' },
      { 'node-name': 'nobody' },
    ]) {
      await pair.same('block-export-add', exported(more))
    }
    await pair.same('block-export-add', exported({ 'node-name': 'odd' }))
    await pair.same('block-export-add', exported())
    await pair.same('block-export-del', { id: 'nobody' })
    await pair.same('nbd-server-remove', { name: 'e' })
    await pair.same('block-export-del', { id: 'e' })
    await pair.sameEvents()
  })

  it('takes the same options', async () => {
    await using pair = await start()
    await pair.same('object-add', { 'qom-type': 'iothread', id: 'thread' })
    for (const more of [
      { 'logical-block-size': 0 },
      { 'logical-block-size': 2 ** 21 },
      { 'num-queues': 65535 },
      { iothread: 'thread', 'fixed-iothread': true },
      { writethrough: true, writable: true },
    ]) {
      await pair.same('block-export-add', exported(more))
      await pair.same('query-block-exports')
      await pair.same('block-export-del', { id: 'e', mode: 'safe' })
      await pair.sameEvents()
    }
    // A socket that is there gives way.
    await pair.same('block-export-add', exported())
    await pair.same('block-export-add', exported({ id: 'f' }))
    expect(statSync(join(pair.folders.ours, 'v.sock')).mode & 0o777).toBe(0o600)
  })

  it('listens on a descriptor that it was started with', async () => {
    const commands = [varveDaemon, [storageDaemon.path as string]]
    const told = await Promise.all(
      commands.map(async (command) => {
        const cwd = join(folder, `${number++}`)
        mkdirSync(cwd)
        const args = [inherited, ...command]
        return (await promisify(execFile)('python3', args, { cwd, timeout: 60_000 })).stdout
      }),
    )
    expect(told[0]).toBe(told[1])
    expect(told[0]).toContain('listening 1')
  })

  it('of vduse-blk is checked, and refused, as where there is no /dev/vduse', async () => {
    await using pair = await start()
    const vduse = { type: 'vduse-blk', id: 'e', 'node-name': 'raw', name: 'x' }
    for (const more of [
      {},
      { writable: true, serial: 's'.repeat(300) },
      { name: undefined },
      { addr: socket },
      { 'num-queues': 0 },
      { 'num-queues': 0, 'queue-size': 3 },
      { 'queue-size': 0 },
      { 'queue-size': 2 },
      { 'queue-size': 3 },
      { 'queue-size': 4 },
      { 'queue-size': 1024 },
      { 'queue-size': 2048 },
      { 'queue-size': 3, 'logical-block-size': 3 },
      { 'num-queues': 0, 'logical-block-size': 3 },
      { 'logical-block-size': 3 },
    ]) {
      await pair.same('block-export-add', { ...vduse, ...more })
    }
  })
})
