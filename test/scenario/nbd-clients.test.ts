/** Clients that go away, send nonsense, do not read, or are many. */
import type { AddressInfo } from 'node:net'
import { describe, expect, it } from 'vitest'
import {
  maxBytesInFlight,
  maxPooledBytes,
  maxRequestsInFlight,
} from '../../src/export/nbd/limits.ts'
import { NbdServer } from '../../src/export/nbd/server.ts'
import {
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_WRITE,
  NBD_OPT_LIST,
  NBD_REP_ACK,
} from '../../src/wire/nbd/constants.ts'
import { requestSize } from '../../src/wire/nbd/transmission.ts'
import { WatchedLayer } from '../support/nbd-layer.ts'
import { patterned, startServer } from '../support/nbd-server.ts'
import { RawClient } from '../support/nbd-wire.ts'
import { until } from '../support/until.ts'

const MiB = 2 ** 20

describe('a client that', () => {
  it('sends garbage loses its connection, and nobody else does', async () => {
    await using test = await startServer()
    await using good = await RawClient.transmitting(test.path)
    await using bad = await RawClient.transmitting(test.path)
    bad.send(Buffer.alloc(100_000, 'garbage'))
    expect(await bad.closed()).toHaveLength(0)
    good.sendRequest({ type: NBD_CMD_READ, length: 1, cookieLow: 1 })
    expect(await good.simpleReply()).toMatchObject({ error: 0, cookieLow: 1 })
  })

  it('sends garbage still gets the replies to what it asked before', async () => {
    await using test = await startServer()
    test.layer.slow = true
    await using client = await RawClient.transmitting(test.path)
    const request = RawClient.request({ type: NBD_CMD_FLUSH, cookieLow: 8 })
    client.send(Buffer.concat([request, Buffer.alloc(requestSize, 'x')]))
    expect(await client.simpleReply()).toMatchObject({ error: 0, cookieLow: 8 })
    expect(await client.closed()).toHaveLength(0)
  })

  it.each([
    ['in a header', 10, 0],
    ['in a payload', requestSize, 100_000],
  ])('vanishes %s leaves nothing behind', async (_, header, payload) => {
    await using test = await startServer()
    const client = await RawClient.transmitting(test.path)
    const request = RawClient.request({ type: NBD_CMD_WRITE, length: 200_000 })
    client.send(Buffer.concat([request.subarray(0, header), Buffer.alloc(payload, 1)]))
    await until(() => test.server.connections === 1)
    client.socket.destroy()
    await until(() => test.server.connections === 0)
    expect(test.layer.calls).toEqual([])
  })

  it('resets its connection has the requests under way aborted', async () => {
    await using test = await startServer({}, { path: undefined, host: '127.0.0.1', port: 0 })
    test.layer.hold()
    const { port } = test.server.address as AddressInfo
    const client = await RawClient.transmitting({ host: '127.0.0.1', port })
    for (let count = 0; count < 20; count++)
      client.sendRequest({ type: NBD_CMD_READ, length: 4096 })
    await until(() => test.layer.underWay === 20)
    client.socket.resetAndDestroy()
    await until(() => test.server.connections === 0)
    expect(test.layer.underWay).toBe(0)
  })

  it('goes away without a word has its writes finished', async () => {
    await using test = await startServer()
    test.layer.hold()
    const client = await RawClient.transmitting(test.path)
    client.sendRequest({ type: NBD_CMD_WRITE, length: 3 }, Buffer.from('abc'))
    await until(() => test.layer.underWay === 1)
    client.socket.destroy()
    await new Promise((resolve) => setTimeout(resolve, 20))
    test.layer.letGo()
    await until(() => test.server.connections === 0)
    expect(Buffer.from(test.layer.bytes.subarray(0, 3)).toString()).toBe('abc')
  })

  it('vanishes in the handshake leaves nothing behind', async () => {
    await using test = await startServer()
    const client = await RawClient.greeted(test.path)
    await until(() => test.server.connections === 1)
    client.send(Buffer.alloc(5))
    client.socket.destroy()
    await until(() => test.server.connections === 0)
  })

  it('does not read is not read from either, and costs a bounded amount of memory', async () => {
    await using test = await startServer({ layer: new WatchedLayer(patterned(MiB, 1)) })
    await using client = await RawClient.transmitting(test.path)
    client.socket.pause()
    const count = 500
    const requests = Array.from({ length: count }, (_, cookieLow) =>
      RawClient.request({ type: NBD_CMD_READ, length: MiB, cookieLow }),
    )
    client.send(Buffer.concat(requests))
    await until(() => test.layer.calls.length * MiB >= maxBytesInFlight)
    await new Promise((resolve) => setTimeout(resolve, 50))
    expect(test.layer.calls.length * MiB).toBeLessThan(maxBytesInFlight + 4 * MiB)
    client.socket.resume()
    for (let cookieLow = 0; cookieLow < count; cookieLow++) {
      expect(await client.simpleReply()).toMatchObject({ error: 0, cookieLow })
      await client.take(MiB)
    }
  })

  it('does not read long structured replies makes them wait', async () => {
    await using test = await startServer({ layer: new WatchedLayer(patterned(16 * MiB, 1)) })
    await using client = await RawClient.transmitting(test.path, { structured: true })
    client.socket.pause()
    for (let count = 0; count < 20; count++) {
      client.sendRequest({ type: NBD_CMD_READ, length: 16 * MiB })
    }
    const read = () => test.layer.calls.reduce((sum, call) => sum + call.length, 0)
    await until(() => read() >= maxBytesInFlight)
    await new Promise((resolve) => setTimeout(resolve, 50))
    expect(read()).toBeLessThan(maxBytesInFlight + 16 * MiB)
  })

  it('vanishes with much asked for is not read for any more, and its memory is given back', async () => {
    await using test = await startServer({ layer: new WatchedLayer(patterned(16 * MiB, 1)) })
    const before = process.memoryUsage().arrayBuffers
    for (const structured of [true, false]) {
      test.layer.calls.length = 0
      const client = await RawClient.transmitting(test.path, { structured })
      client.socket.pause()
      const length = 16 * MiB
      const requests = new Array(2000).fill(RawClient.request({ type: NBD_CMD_READ, length }))
      client.send(Buffer.concat(requests))
      const read = () => test.layer.calls.reduce((sum, call) => sum + call.length, 0)
      await until(() => read() >= maxBytesInFlight)
      client.socket.destroy()
      await until(() => test.server.connections === 0)
      expect(read()).toBeLessThan(4 * maxBytesInFlight)
      const held = process.memoryUsage().arrayBuffers - before
      expect(held).toBeLessThan(maxPooledBytes + 4 * MiB)
    }
  })

  it('asks for options without end and reads none of the replies is not answered without end', async () => {
    await using test = await startServer({ description: 'd'.repeat(4096) })
    await using client = await RawClient.greeted(test.path)
    client.socket.pause()
    const count = 5000
    for (let sent = 0; sent < count; sent++) client.sendOption(NBD_OPT_LIST)
    await new Promise((resolve) => setTimeout(resolve, 50))
    client.socket.resume()
    for (let received = 0; received < count; received++) {
      expect((await client.optionReplies()).at(-1)?.type).toBe(NBD_REP_ACK)
    }
  })

  it('sends options without end and reads nothing is not read from either', async () => {
    await using test = await startServer({ description: 'd'.repeat(4096) })
    await using client = await RawClient.greeted(test.path)
    client.socket.pause()
    const option = Buffer.from('49484156454f5054' + '00000003' + '00000000', 'hex')
    const flood = Buffer.alloc(4096 * option.length)
    for (let at = 0; at < flood.length; at += option.length) option.copy(flood, at)
    let taken = 0
    const pump = () =>
      client.socket.write(flood, (error) => {
        if (error) return
        taken += flood.length
        pump()
      })
    pump()
    await new Promise((resolve) => setTimeout(resolve, 150))
    // What the kernel's buffers hold, and a chunk or two of the server.
    expect(taken).toBeLessThan(4 * MiB)
  })

  it('has more requests than are taken at once gets them all answered', async () => {
    await using test = await startServer()
    test.layer.hold()
    await using client = await RawClient.transmitting(test.path)
    const count = 3 * maxRequestsInFlight
    for (let cookieLow = 0; cookieLow < count; cookieLow++) {
      client.sendRequest({ type: NBD_CMD_READ, offset: cookieLow, length: 1, cookieLow })
    }
    await until(() => test.layer.underWay === maxRequestsInFlight)
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect(test.layer.underWay).toBe(maxRequestsInFlight)
    test.layer.letGo()
    const seen = new Set<number>()
    while (seen.size < count) {
      seen.add((await client.simpleReply()).cookieLow)
      await client.take(1)
    }
  })
})

describe('pipelining', () => {
  it('answers 64 requests of mixed kinds and sizes, each with its own data', async () => {
    const seed = Math.floor(Math.random() * 2 ** 31)
    const layer = new WatchedLayer(patterned(4 * MiB, 5))
    await using test = await startServer({ layer })
    await using client = await RawClient.transmitting(test.path, { structured: true })
    const expected = Buffer.from(layer.bytes)
    let state = seed
    const random = (below: number) => {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0
      return Math.floor((state / 2 ** 32) * below)
    }
    for (let round = 0; round < 4; round++) {
      layer.slow = round % 2 === 1
      const parts: Buffer[] = []
      const reads = new Map<number, { offset: number; length: number }>()
      for (let slot = 0; slot < 64; slot++) {
        // Slots do not overlap, so the order in which they are done does not matter.
        const offset = slot * 65536 + random(100)
        const length = 1 + random([512, 4096, 65000][random(3)])
        const cookieLow = slot
        if (random(2) === 0) {
          const payload = patterned(length, random(2 ** 30))
          parts.push(RawClient.request({ type: NBD_CMD_WRITE, offset, length, cookieLow }, payload))
          expected.set(payload, offset)
        } else {
          parts.push(RawClient.request({ type: NBD_CMD_READ, offset, length, cookieLow }))
          reads.set(cookieLow, { offset, length })
        }
      }
      const before = Buffer.from(layer.bytes)
      const stream = Buffer.concat(parts)
      for (let at = 0; at < stream.length; ) {
        const step = 1 + random(40_000)
        client.send(stream.subarray(at, at + step))
        at += step
      }
      await readReplies(client, 64, reads, before, seed)
      expect(Buffer.from(layer.bytes).equals(expected), `seed ${seed}`).toBe(true)
    }
  })

  async function readReplies(
    client: RawClient,
    count: number,
    reads: ReadonlyMap<number, { offset: number; length: number }>,
    content: Buffer,
    seed: number,
  ): Promise<void> {
    const got = new Map([...reads].map(([cookie, { length }]) => [cookie, Buffer.alloc(length)]))
    for (let done = 0; done < count; ) {
      const magic = (await client.take(4)).readUInt32BE(0)
      if (magic === 0x67446698) {
        expect((await client.take(12)).readUInt32BE(0), `seed ${seed}`).toBe(0)
        done++
        continue
      }
      const header = await client.take(16)
      const cookie = header.readUInt32BE(8)
      const payload = await client.take(header.readUInt32BE(12))
      if (header.readUInt16BE(0) === 1) done++
      if (header.readUInt16BE(2) === 0) continue
      expect(header.readUInt16BE(2), `seed ${seed}`).toBe(1)
      const at = Number(payload.readBigUInt64BE(0)) - reads.get(cookie)!.offset
      payload.copy(got.get(cookie)!, at, 8)
    }
    for (const [cookie, { offset, length }] of reads) {
      const right = content.subarray(offset, offset + length)
      expect(got.get(cookie)!.equals(right), `seed ${seed}, slot ${cookie}`).toBe(true)
    }
  }
})

describe('many clients', () => {
  it('are served at the same time', async () => {
    await using test = await startServer({ layer: new WatchedLayer(patterned(MiB, 2)) })
    test.layer.slow = true
    const clients = await Promise.all(
      Array.from({ length: 20 }, () => RawClient.transmitting(test.path)),
    )
    expect(test.server.connections).toBe(20)
    await Promise.all(
      clients.map(async (client, index) => {
        client.sendRequest({ type: NBD_CMD_READ, offset: index, length: 1000, cookieLow: index })
        expect(await client.simpleReply()).toMatchObject({ error: 0, cookieLow: index })
        const data = await client.take(1000)
        expect(data.equals(test.layer.bytes.subarray(index, index + 1000))).toBe(true)
      }),
    )
    for (const client of clients) client.socket.destroy()
  })

  it('beyond the limit wait until a place is free', async () => {
    const gone: [number, boolean][] = []
    await using test = await startServer(
      {},
      { maxConnections: 1, onClientGone: (left, negotiated) => gone.push([left, negotiated]) },
    )
    const first = await RawClient.transmitting(test.path)
    const second = RawClient.transmitting(test.path)
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect(test.server.connections).toBe(1)
    first.socket.destroy()
    await using client = await second
    client.sendRequest({ type: NBD_CMD_READ, length: 1, cookieLow: 1 })
    expect(await client.simpleReply()).toMatchObject({ error: 0 })
    expect(gone).toEqual([[0, true]])
  })
})

describe('an export', () => {
  it('in use is not removed safely', async () => {
    await using test = await startServer()
    await using client = await RawClient.transmitting(test.path)
    await expect(test.server.removeExport('', { mode: 'safe' })).rejects.toMatchObject({
      code: 'BUSY',
    })
    client.socket.destroy()
    await until(() => test.server.connections === 0)
    await test.server.removeExport('', { mode: 'safe' })
    expect(test.server.exports.size).toBe(0)
  })

  it('is removed with requests under way answered first, other exports going on', async () => {
    await using test = await startServer({ name: 'a' })
    const other = new WatchedLayer(new Uint8Array(MiB))
    test.server.addExport({ name: 'b', layer: other, writable: true })
    await using a = await RawClient.transmitting(test.path, { name: 'a' })
    await using b = await RawClient.transmitting(test.path, { name: 'b' })
    test.layer.hold()
    a.sendRequest({ type: NBD_CMD_FLUSH, cookieLow: 1 })
    await until(() => test.layer.underWay === 1)
    let removed = false
    const removal = test.server.removeExport('a', { mode: 'hard' }).then(() => {
      removed = true
    })
    await new Promise((resolve) => setTimeout(resolve, 20))
    expect(removed).toBe(false)
    test.layer.letGo()
    await removal
    expect(await a.simpleReply()).toMatchObject({ error: 0, cookieLow: 1 })
    expect(await a.closed()).toHaveLength(0)
    b.sendRequest({ type: NBD_CMD_FLUSH, cookieLow: 2 })
    expect(await b.simpleReply()).toMatchObject({ error: 0, cookieLow: 2 })
  })

  it('that does not exist cannot be removed, nor one added twice', async () => {
    await using test = await startServer()
    await expect(test.server.removeExport('x', { mode: 'hard' })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    })
    expect(() => test.server.addExport({ name: '', layer: test.layer, writable: true })).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
    )
  })

  it('of a read-only disk is not writable', async () => {
    await using test = await startServer()
    const layer = new WatchedLayer(new Uint8Array(1))
    layer.capabilities = { ...layer.capabilities, write: false }
    expect(() => test.server.addExport({ name: 'x', layer, writable: true })).toThrow(
      expect.objectContaining({ code: 'READ_ONLY' }),
    )
  })
})

describe('the server', () => {
  it('listens on TCP', async () => {
    await using server = await NbdServer.listen({ host: '127.0.0.1', port: 0 })
    server.addExport({ name: '', layer: new WatchedLayer(new Uint8Array(10)), writable: true })
    const { address } = server
    if (typeof address === 'string') throw new Error('no TCP address')
    await using client = await RawClient.transmitting({ host: '127.0.0.1', port: address.port })
    client.sendRequest({ type: NBD_CMD_READ, length: 10 })
    expect(await client.simpleReply()).toMatchObject({ error: 0 })
  })

  it('makes its socket for its own user alone', async () => {
    await using test = await startServer()
    const { statSync } = await import('node:fs')
    expect(statSync(test.path).mode & 0o777).toBe(0o600)
  })

  it('does not take the place of another that lives', async () => {
    await using test = await startServer()
    await expect(NbdServer.listen({ path: test.path })).rejects.toMatchObject({
      code: 'IO',
      errno: 'EADDRINUSE',
      message: `Failed to bind socket to ${test.path}: Address already in use`,
    })
  })

  it('takes the place of one that died', async () => {
    await using test = await startServer()
    const { execFileSync } = await import('node:child_process')
    const path = `${test.path}2`
    // A process that ends without closing its socket leaves the name behind.
    const script = `require('node:net').createServer().listen(${JSON.stringify(path)}, () => process.kill(process.pid, 'SIGKILL'))`
    expect(() => execFileSync(process.execPath, ['-e', script])).toThrow()
    await using server = await NbdServer.listen({ path })
    server.addExport({ name: '', layer: new WatchedLayer(new Uint8Array(1)), writable: false })
    await using client = await RawClient.transmitting(path)
    expect(client.pending).toBe(0)
  })

  it('closes with requests under way answered, and its socket removed', async () => {
    const test = await startServer()
    await using client = await RawClient.transmitting(test.path)
    test.layer.hold()
    client.sendRequest({ type: NBD_CMD_WRITE, length: 2, cookieLow: 1 }, Buffer.from('hi'))
    await until(() => test.layer.underWay === 1)
    const closing = test.server[Symbol.asyncDispose]()
    test.layer.letGo()
    await closing
    expect(await client.simpleReply()).toMatchObject({ error: 0, cookieLow: 1 })
    await expect(RawClient.connect(test.path)).rejects.toThrow()
    await test[Symbol.asyncDispose]()
  })
})
