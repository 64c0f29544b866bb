/** A server for tests of the client: correct in the handshake, and then whatever the test wants. */
import { mkdtemp, rm } from 'node:fs/promises'
import { createServer, type Server, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { viewOf } from '../../src/bytes/view.ts'
import {
  IHAVEOPT,
  NBD_FLAG_HAS_FLAGS,
  NBD_FLAG_SEND_FLUSH,
  NBD_OPT_EXPORT_NAME,
  NBD_OPT_EXTENDED_HEADERS,
  NBD_OPT_GO,
  NBD_OPT_STRUCTURED_REPLY,
  NBD_REP_ACK,
  NBD_REP_ERR_UNSUP,
  NBD_REP_INFO,
  NBD_REP_MAGIC,
  NBDMAGIC,
} from '../../src/wire/nbd/constants.ts'
import {
  clientFlags,
  encodeInfoExport,
  exportNameReply,
  greeting,
  optionHeader,
  optionReplyHeader,
} from '../../src/wire/nbd/handshake.ts'
import { compactLayout, extendedLayout } from '../../src/wire/nbd/layout.ts'
import {
  encodeSimpleReply,
  type NbdRequest,
  simpleReplySize,
} from '../../src/wire/nbd/transmission.ts'

export interface FakeBehaviour {
  readonly size?: number
  readonly flags?: number
  readonly structured?: boolean
  /** Agrees to extended headers. */
  readonly extended?: boolean
  /** Knows NBD_OPT_EXPORT_NAME alone. */
  readonly old?: boolean
  /** Instead of the greeting. */
  readonly greeting?: Uint8Array
  /** Instead of the information about the export. */
  readonly info?: readonly Uint8Array[]
  onRequest?(request: NbdRequest, socket: Socket): void
}

export interface FakeServer extends AsyncDisposable {
  readonly path: string
  readonly sockets: Set<Socket>
  /** Stops listening and cuts all connections. */
  stop(): Promise<void>
  start(behaviour?: FakeBehaviour): Promise<void>
}

export async function fakeServer(behaviour: FakeBehaviour = {}): Promise<FakeServer> {
  const directory = await mkdtemp(join(tmpdir(), 'varve-fake-'))
  const path = join(directory, 'socket')
  const sockets = new Set<Socket>()
  let server: Server | undefined
  const fake: FakeServer = {
    path,
    sockets,
    async start(next = behaviour) {
      const listening = createServer((socket) => serve(socket, next, sockets))
      await new Promise<void>((resolve) => listening.listen(path, resolve))
      server = listening
    },
    async stop() {
      const closing = server
      server = undefined
      for (const socket of sockets) socket.destroy()
      if (closing) await new Promise((resolve) => closing.close(resolve))
    },
    async [Symbol.asyncDispose]() {
      await fake.stop()
      await rm(directory, { recursive: true, force: true })
    },
  }
  await fake.start()
  return fake
}

/** A simple reply, with data for a read. */
export function answer(
  socket: Socket,
  request: { cookieHigh: number; cookieLow: number },
  error = 0,
  data: Uint8Array = Buffer.alloc(0),
): void {
  const header = Buffer.alloc(simpleReplySize)
  encodeSimpleReply(viewOf(header), 0, request, error)
  socket.write(Buffer.concat([header, data]))
}

function serve(socket: Socket, behaviour: FakeBehaviour, sockets: Set<Socket>): void {
  sockets.add(socket)
  socket.on('close', () => sockets.delete(socket))
  socket.on('error', () => {})
  socket.write(
    behaviour.greeting ??
      greeting.encode({ nbdMagic: NBDMAGIC, optionMagic: IHAVEOPT, handshakeFlags: 3 }),
  )
  let received = Buffer.alloc(0)
  let step: (bytes: Buffer) => number = (bytes) => {
    if (bytes.length < clientFlags.size) return 0
    step = (more) => option(more)
    return clientFlags.size
  }
  const option = (bytes: Buffer): number => {
    if (bytes.length < optionHeader.size) return 0
    const header = optionHeader.decode(bytes)
    const whole = optionHeader.size + header.length
    if (bytes.length < whole) return 0
    if (answerOption(socket, behaviour, header.option)) step = (more) => requestOf(more)
    return whole
  }
  const requestOf = (bytes: Buffer): number => {
    const layout = behaviour.extended ? extendedLayout : compactLayout
    if (bytes.length < layout.requestSize) return 0
    const request = layout.decodeRequest(viewOf(bytes), 0)
    if (!request) throw new Error('the client sent a request without the magic number')
    const whole = layout.requestSize + layout.payloadLength(request)
    if (bytes.length < whole) return 0
    behaviour.onRequest?.(request, socket)
    return whole
  }
  socket.on('data', (chunk) => {
    received = Buffer.concat([received, chunk])
    for (let used = step(received); used > 0; used = step(received)) {
      received = received.subarray(used)
    }
  })
}

/** Returns whether the handshake is over. */
function answerOption(socket: Socket, behaviour: FakeBehaviour, option: number): boolean {
  const { size = 2 ** 20, flags = NBD_FLAG_HAS_FLAGS + NBD_FLAG_SEND_FLUSH } = behaviour
  const reply = (type: number, data: Uint8Array = Buffer.alloc(0)) => {
    const header = { magic: NBD_REP_MAGIC, option, type, length: data.length }
    socket.write(Buffer.concat([optionReplyHeader.encode(header), data]))
  }
  if (option === NBD_OPT_EXPORT_NAME) {
    socket.write(exportNameReply.encode({ size: BigInt(size), transmissionFlags: flags }))
    return true
  }
  if (option === NBD_OPT_GO && !behaviour.old) {
    for (const info of behaviour.info ?? [encodeInfoExport(size, flags)]) reply(NBD_REP_INFO, info)
    reply(NBD_REP_ACK)
    return true
  }
  const known =
    (option === NBD_OPT_STRUCTURED_REPLY && behaviour.structured) ||
    (option === NBD_OPT_EXTENDED_HEADERS && behaviour.extended)
  reply(known ? NBD_REP_ACK : NBD_REP_ERR_UNSUP)
  return false
}
