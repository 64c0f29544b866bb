/** The other end of the stream: standard input and output, a descriptor, or a socket. */
import { once } from 'node:events'
import { rm } from 'node:fs/promises'
import { connect, createServer, type ListenOptions, type NetConnectOpts, Socket } from 'node:net'
import { BlockError, systemError } from '../../errors.ts'
import { DescriptorSink, DescriptorSource } from '../../snapshot/io/descriptor-io.ts'
import type { ByteSink } from '../../snapshot/io/sink.ts'
import { SocketSink, SocketSource } from '../../snapshot/io/socket-io.ts'
import type { ByteSource } from '../../snapshot/stream/window.ts'
import { SnapFailure } from './failure.ts'

export interface Channel {
  readonly source: ByteSource
  readonly sink: ByteSink
  /** Throws when what came is not all: the peer has sent something on other connections. */
  check(): void
  /** Ends both directions at once. */
  close(): Promise<void>
}

/**
 * `direction` tells which of standard input and output is the return path. `bulk`: nothing in the
 * stream is urgent, so much of it may be under way.
 */
export async function openChannel(
  uri: string | undefined,
  direction: 'save' | 'load',
  signal: AbortSignal | undefined,
  bulk = false,
): Promise<Channel> {
  if (uri === undefined) return standardChannel(direction, bulk)
  const fd = /^fd:(\d+)$/.exec(uri)
  if (fd) return descriptorChannel(Number(fd[1]))
  const address = addressOf(uri)
  if (direction === 'load') return socketChannel(await dial(address, uri, signal), uri)
  const listener = await listen(address, uri, signal)
  try {
    return socketChannel(await listener.accepted, uri, listener.close)
  } catch (error) {
    await listener.close()
    throw error
  }
}

function standardChannel(direction: 'save' | 'load', bulk: boolean): Channel {
  const sink = new DescriptorSink(1, 'standard output')
  if (direction === 'save') {
    const source = new DescriptorSource(0, 'standard input')
    return { source, sink, check: () => {}, close: () => sink.end() }
  }
  if (bulk) sink.widen()
  // Reading must not keep the process alive, and must not occupy a thread of the pool for ever.
  const { stdin } = process
  const source = new SocketSource(stdin as unknown as Socket, 'standard input')
  const close = async () => {
    await sink.end()
    stdin.destroy()
  }
  return { source, sink, check: () => {}, close }
}

function descriptorChannel(fd: number): Channel {
  if (fd <= 2) throw new SnapFailure(`Invalid URI 'fd:${fd}': the descriptor has to be above 2`)
  try {
    return socketChannel(new Socket({ fd }), `fd:${fd}`)
  } catch (error) {
    throw systemError(error, `Could not use descriptor ${fd}`)
  }
}

/** `after` is done when the channel is closed. */
function socketChannel(
  socket: Socket,
  name: string,
  after: () => Promise<void> = async () => {},
): Channel {
  const source = new SocketSource(socket, name)
  const sink = new SocketSink(socket, name)
  const check = () => {
    if (socket.errored instanceof BlockError) throw socket.errored
  }
  const close = async () => {
    await sink.end()
    socket.destroy()
    await after()
  }
  return { source, sink, check, close }
}

type Address = { readonly path: string } | { readonly host: string; readonly port: number }

function addressOf(uri: string): Address {
  const unix = /^unix:(.+)$/.exec(uri)
  if (unix) return { path: unix[1] }
  const tcp = /^tcp:(\[[0-9a-f:.]+\]|[^:]*):(\d{1,5})$/i.exec(uri)
  if (tcp) {
    const port = Number(tcp[2])
    const host = tcp[1].replace(/^\[(.*)\]$/, '$1') || 'localhost'
    if (port < 65536) return { host, port }
  }
  throw new SnapFailure(`Invalid URI '${uri}': fd:N, unix:PATH or tcp:HOST:PORT is needed`)
}

interface Listener {
  readonly accepted: Promise<Socket>
  close(): Promise<void>
}

async function listen(
  address: Address,
  uri: string,
  signal: AbortSignal | undefined,
): Promise<Listener> {
  const server = createServer({ pauseOnConnect: true, highWaterMark: 1024 * 1024 })
  const close = async () => {
    server.close()
    if ('path' in address) await rm(address.path, { force: true })
  }
  const mask = process.umask(0o177)
  try {
    server.listen(address as ListenOptions)
    await once(server, 'listening', { signal })
  } catch (error) {
    if (signal?.aborted) throw signal.reason
    throw systemError(error, `Could not listen at '${uri}'`)
  } finally {
    process.umask(mask)
  }
  server.on('connection', onlyOne())
  const accepted = once(server, 'connection', { signal }).then(([socket]) => socket as Socket)
  accepted.catch(() => {})
  return { accepted, close }
}

/**
 * With multifd QEMU connects several times, and sends most pages on the later connections; the
 * first looks like a stream of its own, in which those pages are missing.
 */
function onlyOne(): (socket: Socket) => void {
  let first: Socket | undefined
  return (socket) => {
    if (!first) {
      first = socket
      first.on('error', () => {})
      return
    }
    socket.destroy()
    const text = 'a snapshot cannot carry a migration over several connections (multifd)'
    first.destroy(new BlockError('UNSUPPORTED', text, { errno: 'ENOTSUP' }))
  }
}

/** A socket at a path, at which one connection is waited for once it is asked for. */
export async function listenAt(
  path: string,
  signal: AbortSignal | undefined,
): Promise<{ channel(): Promise<Channel>; close(): Promise<void> }> {
  const listener = await listen({ path }, `unix:${path}`, signal)
  return {
    channel: async () => socketChannel(await listener.accepted, `unix:${path}`),
    close: () => listener.close(),
  }
}

async function dial(
  address: Address,
  uri: string,
  signal: AbortSignal | undefined,
): Promise<Socket> {
  const socket = connect(address as NetConnectOpts)
  try {
    await once(socket, 'connect', { signal })
    return socket
  } catch (error) {
    socket.destroy()
    if (signal?.aborted) throw signal.reason
    throw systemError(error, `Could not connect to '${uri}'`)
  }
}

export function closedEarly(error: unknown): BlockError | undefined {
  if (!(error instanceof BlockError)) return undefined
  if (error.errno !== 'EPIPE' && error.errno !== 'ECONNRESET') return undefined
  return new BlockError(
    'CLOSED',
    'QEMU has closed the connection: it did not accept the snapshot; its own messages say why ' +
      '(another machine type, other devices, a capability that is not set)',
    { errno: error.errno, cause: error },
  )
}
