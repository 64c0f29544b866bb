/**
 * Damaged conversations. Whatever a client sends, the server goes on serving others and leaves
 * nothing behind; whatever a server answers, our client ends with an error or with the truth.
 */
import { createServer, type Server, type Socket } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, describe, expect, it } from 'vitest'
import { neverAborted, plainIo } from '../../src/block/layer.ts'
import { BlockError } from '../../src/errors.ts'
import { NbdServer } from '../../src/export/nbd/server.ts'
import { MemoryLayer } from '../../src/protocol/memory.ts'
import { NbdLayer } from '../../src/protocol/nbd/layer.ts'
import { Link } from '../../src/protocol/nbd/link.ts'
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_FLAG_PAYLOAD_LEN,
  NBD_CMD_READ,
  NBD_CMD_WRITE,
  NBD_OPT_EXTENDED_HEADERS,
  NBD_OPT_GO,
  NBD_OPT_LIST,
  NBD_OPT_SET_META_CONTEXT,
  NBD_OPT_STRUCTURED_REPLY,
} from '../../src/wire/nbd/constants.ts'
import {
  encodeContextRequest,
  encodeInfoRequest,
  optionHeader,
} from '../../src/wire/nbd/handshake.ts'
import { compactLayout, extendedLayout } from '../../src/wire/nbd/layout.ts'
import { scratchFolder } from '../support/folder.ts'
import { RawClient } from '../support/nbd-wire.ts'
import { Random, seedNote } from '../support/random.ts'
import { until } from '../support/until.ts'

const folder = scratchFolder('nbd-fuzz')
const size = 256 * 1024
const rounds = 60

/** A whole conversation of a client, without waiting for answers. */
function conversation(random: Random): Buffer {
  const extended = random.chance(0.5)
  const option = (number: number, data: Uint8Array = Buffer.alloc(0)) => {
    const header = { magic: 0x49484156454f5054n, option: number, length: data.length }
    return Buffer.concat([optionHeader.encode(header), data])
  }
  const requests = Array.from({ length: 20 }, (_, cookieLow) => {
    const type = [NBD_CMD_READ, NBD_CMD_WRITE, NBD_CMD_BLOCK_STATUS, random.below(9)][
      random.below(4)
    ]
    const [offset, length] = random.range(size, 1, 8192)
    const payload = type === NBD_CMD_WRITE ? random.bytes(length) : undefined
    const flags = random.below(4)
    const request = { type, offset, length, cookieLow, flags }
    return extended && type === NBD_CMD_BLOCK_STATUS && random.chance(0.5)
      ? RawClient.request(
          { ...request, length: 12, flags: flags + NBD_CMD_FLAG_PAYLOAD_LEN },
          Buffer.from('000000000000100000000000', 'hex'),
          extendedLayout,
        )
      : RawClient.request(request, payload, extended ? extendedLayout : compactLayout)
  })
  return Buffer.concat([
    Buffer.from('00000003', 'hex'),
    option(NBD_OPT_LIST),
    option(extended ? NBD_OPT_EXTENDED_HEADERS : NBD_OPT_STRUCTURED_REPLY),
    option(
      NBD_OPT_SET_META_CONTEXT,
      encodeContextRequest({ name: '', queries: ['base:allocation'] }),
    ),
    option(NBD_OPT_GO, encodeInfoRequest({ name: '', requests: [1, 2, 3] })),
    ...requests,
  ])
}

/** Flips, cuts out, repeats or inserts, one to four times. */
function damaged(bytes: Buffer, random: Random): Buffer {
  let result = Buffer.from(bytes)
  for (let count = 1 + random.below(4); count > 0; count--) {
    const at = random.below(Math.max(1, result.length))
    const [head, tail] = [result.subarray(0, at), result.subarray(at)]
    const choice = random.below(4)
    if (choice === 0) result[at] ^= 1 << random.below(8)
    else if (choice === 1) result = Buffer.concat([head, tail.subarray(random.below(64))])
    else if (choice === 2) result = Buffer.concat([head, tail.subarray(0, random.below(64)), tail])
    else result = Buffer.concat([head, random.bytes(1 + random.below(64)), tail])
  }
  return result
}

describe('a client that sends damaged bytes', () => {
  it(`harms nobody else and leaves nothing behind (${seedNote})`, async () => {
    const path = join(folder, 'server')
    await using server = await NbdServer.listen({ path })
    const layer = new MemoryLayer({ size })
    server.addExport({ name: '', layer, writable: true })
    const random = new Random()
    await using good = await RawClient.transmitting(path)
    for (let round = 0; round < rounds; round++) {
      const bad = await RawClient.connect(path)
      const bytes = damaged(conversation(random), random)
      for (let at = 0; at < bytes.length; ) {
        const step = 1 + random.below(4096)
        bad.send(bytes.subarray(at, at + step))
        at += step
      }
      if (random.chance(0.5)) await sleep(1)
      if (random.chance(0.5)) bad.socket.destroy()
      else bad.socket.end()
      good.sendRequest({ type: NBD_CMD_READ, offset: 1, length: 100, cookieLow: round })
      expect(await good.simpleReply()).toMatchObject({ error: 0, cookieLow: round })
      await good.take(100)
    }
    await until(() => server.connections === 1)
  })
})

describe('a server that sends damaged bytes', () => {
  const servers: Server[] = []
  afterEach(() => {
    for (const server of servers.splice(0)) server.close()
  })

  /** What our server says to a client that reads and asks, piece by piece. */
  async function recording(random: Random, path: string, extended: boolean): Promise<Buffer[]> {
    await using server = await NbdServer.listen({ path })
    const layer = new MemoryLayer({ size })
    layer.write(0, random.bytes(size / 2), { signal: neverAborted, fua: false, unchanged: false })
    server.addExport({ name: '', layer, writable: true })
    const recorded: Buffer[] = []
    const proxyPath = `${path}-proxy`
    const { connect } = await import('node:net')
    const proxy = createServer((client) => {
      const upstream = connect(path)
      // An option that nobody knows, in the place of extended headers.
      const [known, shown] = extended ? ['', ''] : ['0000000b00000000', '0000000f00000000']
      const pass = (from: Socket, to: Socket, old: string, now: string) =>
        from.on('data', (chunk) => {
          const bytes = Buffer.from(chunk.toString('hex').replace(old, now), 'hex')
          if (from === upstream) recorded.push(bytes)
          to.write(bytes)
        })
      pass(client, upstream, known, shown)
      pass(upstream, client, shown.slice(0, 8), known.slice(0, 8))
      for (const socket of [client, upstream]) socket.on('error', () => {})
    })
    await new Promise<void>((resolve) => proxy.listen(proxyPath, resolve))
    await exercise(proxyPath)
    proxy.close()
    return recorded
  }

  async function exercise(path: string): Promise<void> {
    const options = {
      address: { type: 'unix', path },
      exportName: '',
      contexts: ['base:allocation'],
      openTimeoutMs: 0,
      reconnectDelayMs: 0,
    } as const
    const link = await Link.open(options, neverAborted)
    await using layer = new NbdLayer(link, link.facts, 'nbd')
    for (let at = 0; at < 4; at++) {
      await layer.read(at * 65536, new Uint8Array(65536), plainIo)
      await layer.extentAt(at * 65536, 65536, plainIo)
      await layer.flush(plainIo)
    }
  }

  it.each([
    ['extended headers', true],
    ['structured replies', false],
  ])(`gets an error that is ours, at once, with %s (${seedNote})`, async (name, extended) => {
    const random = new Random()
    const script = await recording(random, join(folder, `recorded ${name}`), extended)
    const path = join(folder, `replay ${name}`)
    let replay: readonly Buffer[] = []
    let impatienceMs = 250
    const server = createServer((socket) => {
      const pieces = [...replay]
      // One piece for each thing the client says, and one when it has nothing to say.
      const next = () => {
        const piece = pieces.shift()
        if (piece) socket.write(piece)
        else socket.end()
      }
      const impatience = setInterval(next, impatienceMs)
      next()
      socket.on('data', next)
      socket.on('error', () => {})
      socket.on('close', () => clearInterval(impatience))
    })
    servers.push(server)
    await new Promise<void>((resolve) => server.listen(path, resolve))
    replay = script
    await exercise(path)
    impatienceMs = 2
    for (let round = 0; round < rounds; round++) {
      const victim = random.below(script.length)
      replay = script.map((piece, at) => (at === victim ? damaged(piece, random) : piece))
      const outcome = await exercise(path).catch((error: unknown) => error)
      if (outcome !== undefined) expect(outcome).toBeInstanceOf(BlockError)
    }
  })
})
