/**
 * A client that wants TLS, and servers, or somebody in between, who would rather do without: nothing
 * is said to them, and nothing they say is believed.
 */

import { writeFileSync } from 'node:fs'
import { createServer, type Socket } from 'node:net'
import { join } from 'node:path'
import { createServer as createTlsServer } from 'node:tls'
import { afterEach, beforeAll, describe, expect, it } from 'vitest'
import { neverAborted } from '../../src/block/layer.ts'
import { NbdServer } from '../../src/export/nbd/server.ts'
import { MemoryLayer } from '../../src/protocol/memory.ts'
import { NbdClient } from '../../src/protocol/nbd/client.ts'
import { connectTo } from '../../src/protocol/nbd/dial.ts'
import type { TlsCredentials } from '../../src/tls/credentials.ts'
import { loadPsk } from '../../src/tls/load-keys.ts'
import { loadX509 } from '../../src/tls/load-x509.ts'
import {
  IHAVEOPT,
  NBD_OPT_LIST,
  NBD_OPT_STARTTLS,
  NBD_REP_ACK,
  NBD_REP_ERR_INVALID,
  NBD_REP_ERR_PLATFORM,
  NBD_REP_ERR_POLICY,
  NBD_REP_ERR_SHUTDOWN,
  NBD_REP_ERR_TLS_REQD,
  NBD_REP_ERR_UNSUP,
  NBD_REP_MAGIC,
  NBD_REP_SERVER,
  NBDMAGIC,
} from '../../src/wire/nbd/constants.ts'
import { greeting, optionHeader, optionReplyHeader } from '../../src/wire/nbd/handshake.ts'
import { makePki } from '../support/certificates.ts'
import { scratchFolder } from '../support/folder.ts'
import { RawClient } from '../support/nbd-wire.ts'
import { until } from '../support/until.ts'

const folder = scratchFolder('tls-hostile')
const pki = join(folder, 'pki')
let client: TlsCredentials
let count = 0
const closing: (() => void)[] = []

beforeAll(() => {
  makePki(pki)
  client = loadX509({ directory: pki, endpoint: 'client' })
})

afterEach(() => {
  for (const close of closing.splice(0)) close()
})

/** Everything that a client said in the clear, by option. */
interface Heard {
  readonly path: string
  readonly options: number[]
}

/** Greets, and leaves the rest to `answer`. */
async function impostor(
  answer: (socket: Socket, option: number) => void,
  flags = 3,
): Promise<Heard> {
  const path = join(folder, `impostor-${count++}`)
  const options: number[] = []
  const server = createServer((socket) => {
    socket.on('error', () => {})
    const hello = { nbdMagic: NBDMAGIC, optionMagic: IHAVEOPT, handshakeFlags: flags }
    socket.write(greeting.encode(hello))
    let received = Buffer.alloc(0)
    let greeted = false
    socket.on('data', (chunk: Buffer) => {
      received = Buffer.concat([received, chunk])
      if (!greeted && received.length >= 4) {
        greeted = true
        received = received.subarray(4)
      }
      if (received.length < optionHeader.size) return
      const { option } = optionHeader.decode(received)
      received = received.subarray(optionHeader.size)
      options.push(option)
      answer(socket, option)
    })
  })
  await new Promise<void>((resolve) => server.listen(path, resolve))
  closing.push(() => server.close())
  return { path, options }
}

function reply(option: number, type: number, data = Buffer.alloc(0)): Buffer {
  const header = { magic: NBD_REP_MAGIC, option, type, length: data.length }
  return Buffer.concat([optionReplyHeader.encode(header), data])
}

async function connect(path: string, credentials = client, hostname = 'localhost') {
  const socket = await connectTo({ type: 'unix', path }, neverAborted)
  const tls = { credentials, hostname }
  return await NbdClient.open(socket, path, { exportName: '', contexts: [], tls }, neverAborted)
}

describe('a server that would rather do without TLS', () => {
  it.each([
    ['UNSUP', NBD_REP_ERR_UNSUP, "Server don't support STARTTLS option"],
    ['POLICY', NBD_REP_ERR_POLICY, 'Denied by server for option 5 (starttls)'],
    ['INVALID', NBD_REP_ERR_INVALID, 'Invalid parameters for option 5 (starttls)'],
    ['PLATFORM', NBD_REP_ERR_PLATFORM, 'Server lacks support for option 5 (starttls)'],
    ['SHUTDOWN', NBD_REP_ERR_SHUTDOWN, 'Server shutting down before option 5 (starttls)'],
    ['TLS_REQD', NBD_REP_ERR_TLS_REQD, 'TLS negotiation required before option 5 (starttls)'],
    ['SERVER', NBD_REP_SERVER, 'Server answered option 5 (starttls) with unexpected reply 2'],
  ])('is left, whatever its reason: %s', async (_, type, message) => {
    const heard = await impostor((socket, option) => socket.write(reply(option, type)))
    await expect(connect(heard.path)).rejects.toThrow(message)
    expect(heard.options).toEqual([NBD_OPT_STARTTLS])
  })

  it('is left when it does not even speak fixed newstyle', async () => {
    const heard = await impostor(() => {}, 0)
    await expect(connect(heard.path)).rejects.toThrow('Server does not support STARTTLS')
    expect(heard.options).toEqual([])
  })

  it('is left when its consent says more than it should', async () => {
    const more = Buffer.from('more')
    const heard = await impostor((socket, option) => socket.write(reply(option, NBD_REP_ACK, more)))
    await expect(connect(heard.path)).rejects.toThrow('response length is 4 (it should be zero)')
  })
})

describe('somebody in between', () => {
  it('puts no answers behind the consent', async () => {
    const injected = reply(NBD_OPT_LIST, NBD_REP_ACK)
    const heard = await impostor((socket, option) => {
      socket.write(Buffer.concat([reply(option, NBD_REP_ACK), injected]))
    })
    await expect(connect(heard.path)).rejects.toThrow('An unexpected TLS packet was received.')
    expect(heard.options).toEqual([NBD_OPT_STARTTLS])
  })

  it('puts none there later, either', async () => {
    const heard = await impostor((socket, option) => {
      if (option !== NBD_OPT_STARTTLS) return
      socket.write(reply(option, NBD_REP_ACK))
      setTimeout(() => socket.write(reply(NBD_OPT_LIST, NBD_REP_ACK)), 50)
    })
    await expect(connect(heard.path)).rejects.toThrow(/TLS handshake failed/)
  })

  it('goes away, and the client says so at once', async () => {
    const heard = await impostor((socket, option) => {
      socket.write(reply(option, NBD_REP_ACK))
      socket.end()
    })
    await expect(connect(heard.path)).rejects.toThrow(
      'The TLS connection was non-properly terminated.',
    )
  })

  it('says nothing for the time being, and the client can give up', async () => {
    const heard = await impostor((socket, option) => {
      if (option === NBD_OPT_STARTTLS) socket.write(reply(option, NBD_REP_ACK))
    })
    const socket = await connectTo({ type: 'unix', path: heard.path }, neverAborted)
    const wishes = { exportName: '', contexts: [], tls: { credentials: client, hostname: 'x' } }
    const signal = AbortSignal.timeout(100)
    await expect(NbdClient.open(socket, 'x', wishes, signal)).rejects.toThrow('timeout')
    await until(() => socket.destroyed)
  })
})

describe('a client with keys', () => {
  const keys = join(folder, 'keys')

  it('believes no certificate, not even a valid one, as TLS 1.3 would have it', async () => {
    makePki(keys)
    writeFileSync(join(keys, 'keys.psk'), 'qemu:00112233445566778899aabbccddeeff\n')
    const mine = loadPsk({ directory: keys, endpoint: 'client' })
    const { own } = loadX509({ directory: keys, endpoint: 'server' })
    const spoken: number[] = []
    const tls = createTlsServer({ key: own?.key, cert: own?.certificate }, (socket) => {
      socket.on('error', () => {})
      socket.on('data', (chunk) => spoken.push(chunk.length))
    })
    tls.on('tlsClientError', () => {})
    const heard = await impostor((socket, option) => {
      socket.removeAllListeners('data')
      socket.write(reply(option, NBD_REP_ACK))
      tls.emit('connection', socket)
    })
    await expect(connect(heard.path, mine)).rejects.toThrow('Insufficient credentials')
    expect(spoken).toEqual([])
  })
})

describe('a server with credentials', () => {
  async function serving(options: { verifyPeer?: boolean; authorise?: (who: string) => boolean }) {
    const path = join(folder, `server-${count++}`)
    const tls = loadX509({ directory: pki, endpoint: 'server', verifyPeer: options.verifyPeer })
    const server = await NbdServer.listen({ path, tls, authorise: options.authorise })
    server.addExport({ name: '', layer: new MemoryLayer({ size: 65536 }), writable: true })
    return { path, server, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() }
  }

  it('asks who somebody is before it asks what he wants', async () => {
    const asked: string[] = []
    await using served = await serving({
      authorise(who) {
        asked.push(who)
        return asked.length > 1
      },
    })
    await expect(connect(served.path)).rejects.toThrow('Failed to read option reply')
    await using second = await connect(served.path)
    expect(second.facts.size).toBe(65536)
    expect(asked).toEqual(Array(2).fill('C=CH,O=varve,CN=the client'))
  })

  it('lets nobody in whose authorization cannot be told', async () => {
    await using served = await serving({
      authorise() {
        throw new Error('the list is gone')
      },
    })
    await expect(connect(served.path)).rejects.toThrow('Failed to read option reply')
    await until(() => served.server.connections === 0)
  })

  it('lets nobody in whom it does not know, when it is to ask for authorization', async () => {
    await using served = await serving({ verifyPeer: false, authorise: () => true })
    await expect(connect(served.path)).rejects.toThrow('Failed to read option reply')
  })

  it('survives handshakes that end halfway, and garbage', async () => {
    await using served = await serving({})
    for (const rubbish of [
      Buffer.alloc(0),
      Buffer.from('16030100', 'hex'),
      Buffer.alloc(70000, 7),
    ]) {
      await using raw = await RawClient.greeted(served.path)
      await raw.option(NBD_OPT_STARTTLS)
      raw.send(rubbish)
    }
    await until(() => served.server.connections === 0)
    await using good = await connect(served.path)
    expect(good.facts.size).toBe(65536)
  })
})
