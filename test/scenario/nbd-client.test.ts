/** Our client with servers that go away, lie, or are old. */
import { describe, expect, it } from 'vitest'
import { neverAborted, plainIo, plainWriteIo } from '../../src/block/layer.ts'
import { viewOf } from '../../src/bytes/view.ts'
import { NbdLayer } from '../../src/protocol/nbd/layer.ts'
import { maxRequestsInFlight } from '../../src/protocol/nbd/limits.ts'
import { Link, type LinkOptions } from '../../src/protocol/nbd/link.ts'
import { encodeDataHeader, encodeHoleChunk, errorChunk } from '../../src/wire/nbd/chunks.ts'
import {
  NBD_CMD_READ,
  NBD_ENOSPC,
  NBD_EPERM,
  NBD_FLAG_HAS_FLAGS,
  NBD_FLAG_READ_ONLY,
} from '../../src/wire/nbd/constants.ts'
import { encodeInfoExport, infoBlockSize } from '../../src/wire/nbd/handshake.ts'
import { compactLayout } from '../../src/wire/nbd/layout.ts'
import { encodeChunkHeader, type NbdRequest } from '../../src/wire/nbd/transmission.ts'
import { answer, fakeServer } from '../support/nbd-fake-server.ts'
import { startServer } from '../support/nbd-server.ts'
import { until } from '../support/until.ts'

async function open(path: string, options: Partial<LinkOptions> = {}): Promise<NbdLayer> {
  const link = await Link.open(
    {
      address: { type: 'unix', path },
      exportName: '',
      contexts: ['base:allocation'],
      openTimeoutMs: 0,
      reconnectDelayMs: 0,
      ...options,
    },
    neverAborted,
  )
  return new NbdLayer(link, link.facts, 'nbd')
}

function reads(layer: NbdLayer, count: number): Promise<void>[] {
  return Array.from({ length: count }, async (_, index) =>
    layer.read(index * 512, new Uint8Array(512), plainIo),
  )
}

describe('a server that goes away', () => {
  it('fails every request, those under way and those to come, with one error', async () => {
    let seen = 0
    await using server = await fakeServer({
      onRequest(_, socket) {
        if (++seen === 10) socket.destroy()
      },
    })
    await using layer = await open(server.path)
    const results = await Promise.allSettled(reads(layer, 200))
    const reasons = new Set(results.map((result) => result.status === 'rejected' && result.reason))
    expect(reasons.size).toBe(1)
    expect([...reasons][0]).toMatchObject({
      code: 'IO',
      message: `NBD server '${server.path}': the server closed the connection`,
    })
    await expect(layer.flush(plainIo)).rejects.toMatchObject({ code: 'IO' })
  })

  it('in the middle of a reply does not leave the reader waiting', async () => {
    await using server = await fakeServer({
      onRequest(request, socket) {
        answer(socket, request, 0, Buffer.alloc(100))
        socket.end()
      },
    })
    await using layer = await open(server.path)
    await expect(layer.read(0, new Uint8Array(512), plainIo)).rejects.toMatchObject({ code: 'IO' })
  })

  it('in the handshake fails the opening', async () => {
    await using server = await fakeServer({ greeting: Buffer.from('NBD') })
    setTimeout(() => {
      for (const socket of server.sockets) socket.end()
    }, 20)
    await expect(open(server.path)).rejects.toMatchObject({
      code: 'PEER',
      message: 'the NBD server closed the connection',
    })
  })

  it('and comes back is found again, and nothing is lost', async () => {
    const behaviour = {
      onRequest: (request: NbdRequest, socket: never) =>
        answer(socket, request, 0, Buffer.alloc(request.type === NBD_CMD_READ ? 512 : 0, 7)),
    }
    await using server = await fakeServer({ onRequest: () => {} })
    await using layer = await open(server.path, { reconnectDelayMs: 10_000 })
    const pending = reads(layer, 3)
    await new Promise((resolve) => setTimeout(resolve, 20))
    await server.stop()
    setTimeout(() => server.start(behaviour), 50)
    await Promise.all(pending)
    const target = new Uint8Array(512)
    await layer.read(0, target, plainIo)
    expect(target.every((byte) => byte === 7)).toBe(true)
  })

  it('and does not come back in time fails what waited for it', async () => {
    await using server = await fakeServer({ onRequest: () => {} })
    await using layer = await open(server.path, { reconnectDelayMs: 300 })
    const pending = reads(layer, 3)
    await server.stop()
    const results = await Promise.allSettled(pending)
    for (const result of results) {
      expect(result).toMatchObject({
        reason: { code: 'IO', message: expect.stringContaining('Failed to connect to') },
      })
    }
  })

  it('and comes back with another disk is not taken for the same', async () => {
    await using server = await fakeServer({ onRequest: () => {} })
    await using layer = await open(server.path, { reconnectDelayMs: 10_000 })
    const pending = layer.read(0, new Uint8Array(512), plainIo)
    await server.stop()
    await server.start({ size: 4096 })
    await expect(pending).rejects.toMatchObject({ code: 'PEER' })
  })
})

describe('opening', () => {
  it('waits for a server to appear when told to', async () => {
    await using server = await fakeServer()
    await server.stop()
    setTimeout(() => server.start(), 100)
    await using layer = await open(server.path, { openTimeoutMs: 10_000 })
    expect(layer.size).toBe(2 ** 20)
  })

  it('says which server cannot be reached', async () => {
    await expect(open('/nonexistent/socket')).rejects.toMatchObject({
      code: 'IO',
      errno: 'ENOENT',
      message: "Failed to connect to '/nonexistent/socket': No such file or directory",
    })
  })

  it('says which export there is not', async () => {
    await using test = await startServer({ name: 'a' })
    await expect(open(test.path, { exportName: 'b' })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
      message: "Requested export not available\nserver reported: export 'b' not present",
    })
  })

  it('falls back to NBD_OPT_EXPORT_NAME', async () => {
    await using server = await fakeServer({
      old: true,
      size: 1000,
      flags: NBD_FLAG_HAS_FLAGS + NBD_FLAG_READ_ONLY,
    })
    await using layer = await open(server.path)
    expect(layer.size).toBe(1000)
    expect(layer.capabilities).toMatchObject({ write: false, extents: 'none', discard: 'none' })
    expect(layer.limits.alignment).toBe(1)
  })

  it.each([
    ['no NBD server', { greeting: Buffer.from('SSH-2.0-OpenSSH_9.2p1\r\n') }, 'PEER'],
    [
      'an oldstyle server',
      { greeting: Buffer.from('4e42444d4147494300004202818612530000', 'hex') },
      'UNSUPPORTED',
    ],
    [
      'an export beyond 8 PiB',
      { info: [Buffer.from('0000' + 'ffffffffffffffff' + '0001', 'hex')] },
      'UNSUPPORTED',
    ],
    ['an export without a size', { info: [] }, 'PEER'],
    ['information that is cut off', { info: [Buffer.from('0000ff', 'hex')] }, 'PEER'],
    [
      'block sizes that are nonsense',
      {
        info: [
          encodeInfoExport(512, 1),
          infoBlockSize.encode({ type: 3, minimum: 3, preferred: 4096, maximum: 0 }),
        ],
      },
      'PEER',
    ],
  ])('refuses %s', async (_, behaviour, code) => {
    await using server = await fakeServer(behaviour)
    await expect(open(server.path)).rejects.toMatchObject({ code })
    await until(() => server.sockets.size === 0)
  })

  it('can be aborted', async () => {
    await using server = await fakeServer({ greeting: Buffer.alloc(0) })
    const controller = new AbortController()
    const options: LinkOptions = {
      address: { type: 'unix', path: server.path },
      exportName: '',
      contexts: [],
      openTimeoutMs: 10_000,
      reconnectDelayMs: 0,
    }
    const opening = Link.open(options, controller.signal)
    const reason = new Error('enough')
    setTimeout(() => controller.abort(reason), 20)
    await expect(opening).rejects.toBe(reason)
  })
})

describe('a server that answers', () => {
  it('with errors has them told apart', async () => {
    const errors = [NBD_ENOSPC, NBD_EPERM, 4711]
    await using server = await fakeServer({
      onRequest: (request, socket) => answer(socket, request, errors.shift()),
    })
    await using layer = await open(server.path)
    for (const code of ['NO_SPACE', 'PERMISSION', 'IO']) {
      await expect(layer.write(512, new Uint8Array(512), plainWriteIo)).rejects.toMatchObject({
        code,
        offset: 512,
        message: expect.stringContaining('write of 512 bytes at 512'),
      })
    }
  })

  it('out of order is understood', async () => {
    const waiting: NbdRequest[] = []
    await using server = await fakeServer({
      onRequest(request, socket) {
        waiting.push(request)
        if (waiting.length < 10) return
        for (const each of waiting.reverse()) {
          answer(socket, each, 0, Buffer.alloc(512, each.offset / 512))
        }
      },
    })
    await using layer = await open(server.path)
    const targets = Array.from({ length: 10 }, () => new Uint8Array(512))
    await Promise.all(targets.map((target, index) => layer.read(index * 512, target, plainIo)))
    expect(targets.map((target) => target[511])).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
  })

  it('is asked no more than a bounded number of things at a time', async () => {
    let most = 0
    const waiting: NbdRequest[] = []
    await using server = await fakeServer({
      onRequest(request, socket) {
        waiting.push(request)
        most = Math.max(most, waiting.length)
        if (waiting.length === 1) {
          setTimeout(() => {
            for (const each of waiting.splice(0)) answer(socket, each, 0, Buffer.alloc(512))
          }, 5)
        }
      },
    })
    await using layer = await open(server.path)
    await Promise.all(reads(layer, 3 * maxRequestsInFlight))
    expect(most).toBe(maxRequestsInFlight)
  })

  it.each([
    ['requests that nobody made', (r: NbdRequest) => chunkOf({ ...r, cookieHigh: 99 }, 0, 1)],
    ['with data that nobody asked for', (r: NbdRequest) => dataChunk(r, r.offset + 1, 512)],
    ['with less data than asked for', (r: NbdRequest) => dataChunk(r, r.offset, 511)],
    [
      'with the same data twice',
      (r: NbdRequest) => Buffer.concat([holeChunk(r, 512), holeChunk(r, 1)]),
    ],
    ['with nothing at all', (r: NbdRequest) => chunkOf(r, 0, 1)],
    ['with a chunk that nobody knows', (r: NbdRequest) => chunkOf(r, 77, 1)],
    ['with garbage', () => Buffer.alloc(100, 'x')],
  ])('%s loses its connection', async (_, reply) => {
    await using server = await fakeServer({
      structured: true,
      onRequest: (request, socket) => void socket.write(reply(request)),
    })
    await using layer = await open(server.path)
    await expect(layer.read(512, new Uint8Array(512), plainIo)).rejects.toMatchObject({
      code: 'PEER',
    })
    await until(() => server.sockets.size === 0)
  })

  it('with an error behind some data fails the read, and goes on', async () => {
    await using server = await fakeServer({
      structured: true,
      onRequest(request, socket) {
        if (request.offset === 0) socket.write(holeChunk(request, 100))
        socket.write(
          request.offset === 0
            ? errorChunk(compactLayout, request, 1, NBD_EPERM, Buffer.from('no'))
            : dataChunk(request, request.offset, 512),
        )
      },
    })
    await using layer = await open(server.path)
    await expect(layer.read(0, new Uint8Array(512), plainIo)).rejects.toMatchObject({
      code: 'PERMISSION',
    })
    await layer.read(512, new Uint8Array(512), plainIo)
  })
})

describe('a caller that gives up', () => {
  it('gets its buffer back at once, and what comes later is dropped', async () => {
    const waiting: (() => void)[] = []
    await using server = await fakeServer({
      onRequest: (request, socket) =>
        void waiting.push(() => answer(socket, request, 0, Buffer.alloc(512, 1))),
    })
    await using layer = await open(server.path)
    const controller = new AbortController()
    const given = new Uint8Array(512)
    const kept = new Uint8Array(512)
    const first = layer.read(0, given, controller)
    const second = layer.read(512, kept, plainIo)
    await new Promise((resolve) => setTimeout(resolve, 20))
    const reason = new Error('enough')
    controller.abort(reason)
    await expect(first).rejects.toBe(reason)
    for (const go of waiting) go()
    await second
    expect([given[0], kept[0]]).toEqual([0, 1])
  })

  it('while waiting for its turn does not hold up the others', async () => {
    const waiting: (() => void)[] = []
    await using server = await fakeServer({
      onRequest: (request, socket) =>
        void waiting.push(() => answer(socket, request, 0, Buffer.alloc(512))),
    })
    await using layer = await open(server.path)
    const before = reads(layer, maxRequestsInFlight)
    const controller = new AbortController()
    const given = layer.read(0, new Uint8Array(512), controller)
    const after = reads(layer, 5)
    controller.abort()
    await expect(given).rejects.toThrow()
    const answering = setInterval(() => {
      for (const go of waiting.splice(0)) go()
    }, 2)
    await Promise.all([...before, ...after])
    clearInterval(answering)
  })
})

function dataChunk(request: NbdRequest, offset: number, length: number): Buffer {
  const chunk = Buffer.alloc(28 + length, 1)
  encodeDataHeader(compactLayout, viewOf(chunk), 0, request, 1, offset, length)
  return chunk
}

function holeChunk(request: NbdRequest, length: number): Buffer {
  const chunk = Buffer.alloc(32)
  encodeHoleChunk(compactLayout, viewOf(chunk), 0, request, 0, request.offset, length)
  return chunk
}

function chunkOf(request: NbdRequest, type: number, flags: number): Buffer {
  const chunk = Buffer.alloc(20)
  encodeChunkHeader(viewOf(chunk), 0, request, flags, type, 0)
  return chunk
}
