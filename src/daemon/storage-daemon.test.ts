import { connect, createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { Duplex, duplexPair } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, it } from 'vitest'
import { scratchFolder } from '../../test/support/folder.ts'
import { QmpClient } from '../wire/qmp/client.ts'
import { StorageDaemon } from './storage-daemon.ts'

const folder = scratchFolder('daemon')
const nothing = { driver: 'null-co', size: 65536, 'read-zeroes': true }

/** A daemon with one monitor, and a function that makes clients of it. */
async function monitored(daemon: StorageDaemon, name: string) {
  const path = join(folder, name)
  const addr = { type: 'unix', data: { path } } as const
  await daemon.chardevs.add(name, { type: 'socket', data: { addr } })
  daemon.addMonitor(name)
  return { path, client: () => QmpClient.connect(path) }
}

describe('a storage daemon in a program', () => {
  it('executes commands, checked like those of a monitor', async () => {
    await using daemon = new StorageDaemon()
    await daemon.execute('blockdev-add', { ...nothing, 'node-name': 'a' })
    expect(daemon.graph.node('a').size).toBe(65536)
    await expect(daemon.execute('blockdev-del', { 'node-name': 1 })).rejects.toThrow(
      "Invalid parameter type for 'node-name', expected: string",
    )
    await expect(daemon.execute('no-such')).rejects.toThrow('has not been found')
  })

  it('runs commands one at a time, in the order they came', async () => {
    await using daemon = new StorageDaemon()
    const added = Array.from({ length: 20 }, () =>
      daemon.execute('blockdev-add', { ...nothing, 'node-name': 'a' }),
    )
    const outcomes = await Promise.allSettled(added)
    expect(outcomes.map(({ status }) => status)).toEqual([
      'fulfilled',
      ...Array.from({ length: 19 }, () => 'rejected'),
    ])
  })

  it('cancels jobs, ends exports and closes nodes when it is disposed', async () => {
    const daemon = new StorageDaemon()
    for (const name of ['a', 'b']) {
      await daemon.execute('blockdev-add', { ...nothing, 'node-name': name })
    }
    const data = { path: join(folder, 'dispose.sock') }
    await daemon.execute('nbd-server-start', { addr: { type: 'unix', data } })
    await daemon.execute('block-export-add', { type: 'nbd', id: 'e', 'node-name': 'a' })
    await daemon.execute('blockdev-backup', {
      'job-id': 'j',
      device: 'a',
      target: 'b',
      sync: 'none',
    })
    await daemon[Symbol.asyncDispose]()
    expect([daemon.graph.nodes.size, daemon.jobs.jobs.size, daemon.exports.list()]).toEqual([
      0,
      0,
      [],
    ])
    await expect(daemon.execute('nbd-server-stop')).rejects.toThrow('the daemon is ending')
  })
})

it('does not wait for a peer that never answers when it is disposed', async () => {
  const path = join(folder, 'silent.sock')
  const clients: Socket[] = []
  const server = createServer((socket) => clients.push(socket)).listen(path)
  const daemon = new StorageDaemon()
  const options = { driver: 'nbd', 'node-name': 'n', server: { type: 'unix', path } }
  const adding = daemon.execute('blockdev-add', options)
  const refused = expect(adding).rejects.toThrow('the daemon is ending')
  await until(() => clients.length === 1)
  await daemon[Symbol.asyncDispose]()
  await refused
  for (const client of clients) client.destroy()
  server.close()
})

describe('monitors', () => {
  it('tell every client of events, those that have not negotiated excepted', async () => {
    await using daemon = new StorageDaemon()
    const monitor = await monitored(daemon, 'events')
    await using one = await monitor.client()
    await using other = await monitor.client()
    const silent = connect(monitor.path)
    let heard = ''
    silent.setEncoding('utf8').on('data', (text) => {
      heard += text
    })
    const seen = [one, other].map(
      (client) => new Promise((resolve) => client.once('event', resolve)),
    )
    await greeted(silent, () => heard)
    daemon.emit('BLOCK_EXPORT_DELETED', { id: 'x' })
    for (const event of await Promise.all(seen)) {
      expect(event).toEqual({ event: 'BLOCK_EXPORT_DELETED', data: { id: 'x' } })
    }
    expect(heard).not.toContain('BLOCK_EXPORT_DELETED')
    silent.destroy()
  })

  it('answer each client in the order of its commands', async () => {
    await using daemon = new StorageDaemon()
    const monitor = await monitored(daemon, 'order')
    await using client = await monitor.client()
    const answered: string[] = []
    const add = (name: string) => client.execute('blockdev-add', { ...nothing, 'node-name': name })
    await Promise.all([
      add('a').then(() => answered.push('a')),
      client.execute('query-version').then(() => answered.push('version')),
      add('b').then(() => answered.push('b')),
    ])
    expect(answered).toEqual(['a', 'version', 'b'])
  })

  it('finish the commands of a client that vanishes', async () => {
    await using daemon = new StorageDaemon()
    const { path } = await monitored(daemon, 'vanish')
    const socket = connect(path)
    const add = { execute: 'blockdev-add', arguments: { ...nothing, 'node-name': 'left' } }
    socket.write(`{"execute":"qmp_capabilities"}${JSON.stringify(add)}`, () => socket.destroySoon())
    await until(() => daemon.graph.nodes.has('left'))
    await using client = await QmpClient.connect(path)
    expect(await client.execute('query-named-block-nodes')).toHaveLength(1)
  })

  it('stop reading from a client that does not read', async () => {
    await using daemon = new StorageDaemon()
    const [theirs, ours] = duplexPair()
    const served = daemon.serve(ours)
    const request = Buffer.from('{"execute":"query-version"}'.repeat(1000))
    for (let count = 0; count < 20; count++) theirs.write(request)
    await sleep(50)
    // All answers together are 2 MB.
    expect(ours.writableLength).toBeLessThan(100_000)
    theirs.resume()
    theirs.end()
    await served
  })

  it('cut off a client that lets events pile up', async () => {
    await using daemon = new StorageDaemon()
    const [theirs, ours] = duplexPair()
    const served = daemon.serve(ours)
    theirs.write('{"execute":"qmp_capabilities"}')
    await sleep(5)
    const data = { id: 'x'.repeat(1024 * 1024) }
    for (let count = 0; count < 40; count++) daemon.emit('BLOCK_EXPORT_DELETED', data)
    expect(ours.destroyed).toBe(true)
    await served
  })

  it('connect to a socket, and again when the connection is lost', async () => {
    const path = join(folder, 'client.sock')
    const clients: Socket[] = []
    const server = createServer((socket) => clients.push(socket)).listen(path)
    {
      await using daemon = new StorageDaemon()
      const addr = { type: 'unix', data: { path } } as const
      const data = { addr, server: false, reconnect: 0.01 }
      await daemon.chardevs.add('c', { type: 'socket', data })
      daemon.addMonitor('c')
      await until(() => clients.length === 1)
      clients[0].destroy()
      await until(() => clients.length === 2)
    }
    for (const client of clients) client.destroy()
    server.close()
  })

  it('speak over any stream', async () => {
    await using daemon = new StorageDaemon()
    const output: string[] = []
    const stream = Duplex.from({
      readable: [Buffer.from('{"execute":"qmp_capa'), Buffer.from('bilities","id":7}')],
      writable: async (chunks: AsyncIterable<Buffer>) => {
        for await (const chunk of chunks) output.push(String(chunk))
      },
    })
    await daemon.serve(stream)
    expect(output.at(-1)).toBe('{"return": {}, "id": 7}\r\n')
  })
})

async function greeted(socket: Socket, heard: () => string): Promise<void> {
  await until(() => heard().includes('QMP') && !socket.connecting)
}

async function until(condition: () => boolean): Promise<void> {
  for (let round = 0; !condition(); round++) {
    if (round > 2000) throw new Error('it did not happen')
    await sleep(2)
  }
}
