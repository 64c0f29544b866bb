/** Exports of the daemon that are ended under their clients, and where its NBD server listens. */
import { createServer } from 'node:net'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { MiB } from '../../src/bytes/range.ts'
import { StorageDaemon } from '../../src/daemon/storage-daemon.ts'
import { openDisk } from '../../src/disk.ts'
import { NBD_CMD_READ } from '../../src/wire/nbd/constants.ts'
import { scratchFolder } from '../support/folder.ts'
import { RawClient } from '../support/nbd-wire.ts'
import { until } from '../support/until.ts'

const folder = scratchFolder('daemon-exports')

/** A daemon with a disk of 64 MiB; what it answers when told of the server. */
async function daemonWithDisk(): Promise<StorageDaemon> {
  const daemon = new StorageDaemon()
  const node = { driver: 'null-co', 'node-name': 'n', size: 64 * MiB, 'read-zeroes': false }
  await daemon.execute('blockdev-add', node)
  return daemon
}

const exported = { type: 'nbd', id: 'e', 'node-name': 'n' }
const unix = (data: object) => ({ addr: { type: 'unix', data } })
const inet = (data: object) => ({ addr: { type: 'inet', data: { host: '127.0.0.1', ...data } } })

describe('block-export-del', () => {
  it('does not wait for a client that takes no replies', async () => {
    await using daemon = await daemonWithDisk()
    const path = join(folder, 'stuck.sock')
    await daemon.execute('nbd-server-start', unix({ path }))
    await daemon.execute('block-export-add', exported)
    await using client = await RawClient.transmitting(path, { name: 'n' })
    client.socket.pause()
    const flags = 0
    for (let cookieLow = 0; cookieLow < 4; cookieLow++) {
      client.sendRequest({ type: NBD_CMD_READ, flags, offset: 0, length: 8 * MiB, cookieLow })
    }
    const { read } = daemon.graph.node('n').statistics
    await until(() => read.operations > 0)
    const remove = (mode: string) => daemon.execute('block-export-del', { id: 'e', mode })
    await expect(remove('safe')).rejects.toThrow("export 'e' still in use")
    await remove('hard')
    expect(await daemon.execute('query-block-exports')).toMatchObject([{ 'shutting-down': true }])
    await expect(daemon.execute('blockdev-del', { 'node-name': 'n' })).rejects.toThrow('in use')
    client.socket.destroy()
    await until(() => daemon.exports.list().length === 0)
    await daemon.execute('blockdev-del', { 'node-name': 'n' })
  })

  it('leaves the node free when its clients have nothing to wait for', async () => {
    await using daemon = await daemonWithDisk()
    const path = join(folder, 'idle.sock')
    await daemon.execute('nbd-server-start', unix({ path }))
    await daemon.execute('block-export-add', exported)
    const clients = await Promise.all(
      Array.from({ length: 20 }, () => RawClient.transmitting(path, { name: 'n' })),
    )
    await daemon.execute('block-export-del', { id: 'e', mode: 'hard' })
    await daemon.execute('blockdev-del', { 'node-name': 'n' })
    for (const client of clients) expect(await client.closed()).toHaveLength(0)
  })
})

describe('nbd-server-start', () => {
  it.each([true, false])('has sockets without a file: tight %s', async (tight) => {
    await using daemon = await daemonWithDisk()
    const path = `varve-${process.pid}-${tight}`
    await daemon.execute('nbd-server-start', unix({ path, abstract: true, tight }))
    await daemon.execute('block-export-add', exported)
    const server = { type: 'unix', path, abstract: true, tight }
    await using disk = await openDisk(
      `json:${JSON.stringify({ driver: 'nbd', server, export: 'n' })}`,
      {
        readOnly: true,
      },
    )
    expect(disk.size).toBe(64 * MiB)
  })

  it('tries one port after the other, where there are more', async () => {
    await using daemon = await daemonWithDisk()
    const other = createServer()
    await new Promise<void>((resolve) => other.listen(0, '127.0.0.1', resolve))
    const { port } = other.address() as { port: number }
    const start = (to?: number) =>
      daemon.execute('nbd-server-start', inet({ port: `${port}`, ...(to && { to }) }))
    await expect(start()).rejects.toThrow('Failed to find an available port')
    await start(Math.min(port + 100, 65535))
    other.close()
  })

  it('refuses what is too long', async () => {
    await using daemon = await daemonWithDisk()
    const path = 'p'.repeat(109)
    await expect(daemon.execute('nbd-server-start', unix({ path }))).rejects.toThrow(
      `UNIX socket path '${path}' is too long`,
    )
    await daemon.execute('nbd-server-start', inet({ port: '0' }))
    const add = (more: object) => daemon.execute('block-export-add', { ...exported, ...more })
    const long = 'x'.repeat(4097)
    await expect(add({ name: long })).rejects.toThrow(`export name '${long}' too long`)
    await expect(add({ description: long })).rejects.toThrow(`description '${long}' too long`)
    await add({ name: 'x'.repeat(4096), description: 'x'.repeat(4096) })
  })
})
