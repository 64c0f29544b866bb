/** A socket that clients connect to, as many as like, each a session of its own. */
import { chmodSync } from 'node:fs'
import { unlink } from 'node:fs/promises'
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { errnoOf, unsupported } from '../../errors.ts'
import { bindError, portError } from '../bind-error.ts'
import type { SocketAddress } from '../schema/socket-address.ts'
import type { Chardev, Serve } from './chardev.ts'
import {
  describeAddress,
  type Inet,
  resolveInet,
  socketDescriptor,
  unixPath,
} from './socket-address.ts'
import { leave, throughLayers } from './socket-layers.ts'
import {
  clientStream,
  ignoreEnd,
  noticeEnd,
  SocketProperties,
  type SocketSettings,
  schemeOf,
} from './socket-settings.ts'

/** Clients of one socket at a time; further ones are turned away. */
const maxClients = 64

/** A monitor is not for the whole network unless that is said. */
const usualHost = '127.0.0.1'

export async function openServer(settings: SocketSettings): Promise<Chardev> {
  const server = createServer({ allowHalfOpen: true })
  const address = await bind(server, settings.address)
  return new SocketServer(server, address, settings)
}

class SocketServer implements Chardev {
  readonly ready: Promise<void>
  readonly values: SocketProperties
  readonly #server: Server
  readonly #address: SocketAddress
  readonly #settings: SocketSettings
  /** Connections in the middle of their handshakes. */
  readonly #coming = new Set<Socket>()
  readonly #clients = new Map<Socket, Duplex>()
  readonly #sessions = new Set<Promise<void>>()
  #serve: Serve | undefined
  #arrived: (() => void) | undefined

  constructor(server: Server, address: SocketAddress, settings: SocketSettings) {
    this.#server = server
    this.#address = address
    this.#settings = settings
    this.values = new SocketProperties(
      () => this.#clients.size > 0,
      () => address,
    )
    this.ready = settings.wait
      ? new Promise((resolve) => {
          this.#arrived = resolve
        })
      : Promise.resolve()
    server.on('connection', (socket) => this.#welcome(socket))
    // Accepting failed, for want of descriptors for instance. Clients that are served go on.
    server.on('error', () => {})
  }

  get filename(): string {
    const inet = this.#address.type === 'inet'
    const where = `${inet ? `${schemeOf(this.#settings)}:` : ''}${describeAddress(this.#address)}`
    const [client] = this.#clients.keys()
    if (!client) return `disconnected:${where},server=on`
    // QEMU looks at the connection itself, in which an abstract name does not show.
    if (this.#address.type === 'unix' && this.#address.abstract) return 'unix:,server=on'
    return `${where},server=on${inet ? ` <-> ${client.remoteAddress}:${client.remotePort}` : ''}`
  }

  attach(serve: Serve): void {
    this.#serve = serve
    for (const stream of this.#clients.values()) this.#start(stream, serve)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()))
    for (const socket of this.#coming) socket.destroy()
    for (const [socket, stream] of this.#clients) {
      if (this.#serve) leave(socket, stream)
      else socket.destroy()
    }
    await Promise.all(this.#sessions)
    await closed
  }

  #welcome(socket: Socket): void {
    if (this.#clients.size + this.#coming.size >= maxClients) {
      socket.destroy()
      return
    }
    socket.on('error', () => {})
    const stream = throughLayers(socket, this.#settings)
    if (!(stream instanceof Promise)) {
      this.#enter(socket, stream)
      return
    }
    this.#coming.add(socket)
    stream
      .then(
        (ready) => this.#enter(socket, ready),
        () => socket.destroy(),
      )
      .finally(() => this.#coming.delete(socket))
  }

  #enter(socket: Socket, stream: Duplex): void {
    if (socket.destroyed) return
    this.#clients.set(socket, stream)
    stream.on('error', () => {})
    socket.once('close', () => this.#clients.delete(socket))
    this.#arrived?.()
    if (this.#serve) this.#start(stream, this.#serve)
    else noticeEnd(stream)
  }

  #start(stream: Duplex, serve: Serve): void {
    ignoreEnd(stream)
    const session = serve(clientStream(stream, this.#settings)).finally(() =>
      this.#sessions.delete(session),
    )
    this.#sessions.add(session)
  }
}

/** The address in the end: with the port that was found. */
async function bind(server: Server, address: SocketAddress): Promise<SocketAddress> {
  switch (address.type) {
    case 'unix': {
      const path = unixPath(address)
      try {
        if (!address.abstract) await removeStaleSocket(path)
        await listen(server, { path })
      } catch (error) {
        throw bindError(error, address.path)
      }
      return address
    }
    case 'inet':
      return await bindPort(server, address)
    case 'fd':
      await listen(server, { fd: socketDescriptor(address.str) })
      return address
    case 'vsock':
      throw unsupported('socket chardevs of type vsock are not supported')
  }
}

/** Tries one port after the other up to `to`. */
async function bindPort(server: Server, address: Inet): Promise<SocketAddress> {
  const { host, port, family } = await resolveInet(address, usualHost)
  const last = Math.max(port, address.to ?? port)
  for (let attempt = port; ; attempt++) {
    try {
      await listen(server, { host, port: attempt })
      break
    } catch (error) {
      if (errnoOf(error) !== 'EADDRINUSE' || attempt >= last) throw portError(error)
    }
  }
  const found = server.address() as AddressInfo
  const versions = family === 6 ? { ipv6: true } : { ipv4: true }
  return { type: 'inet', host: found.address, port: String(found.port), ...versions }
}

type Where = { path: string } | { host: string; port: number } | { fd: number }

export function listen(server: Server, where: Where): Promise<void> {
  const isFile = 'path' in where && !where.path.startsWith('\0')
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    // The socket is bound within this call, so the umask holds for it and nothing else.
    const before = isFile ? process.umask(0o177) : undefined
    try {
      server.listen(where, () => {
        server.off('error', reject)
        if (isFile) chmodSync(where.path, 0o600)
        resolve()
      })
    } finally {
      if (before !== undefined) process.umask(before)
    }
  })
}

/** A socket that nobody listens on was left behind by a process that did not end well. */
async function removeStaleSocket(path: string): Promise<void> {
  const probe = connect({ path })
  const refused = await new Promise<boolean>((resolve) => {
    probe.once('connect', () => resolve(false))
    probe.once('error', (error) => resolve(errnoOf(error) === 'ECONNREFUSED'))
  })
  probe.destroy()
  if (refused) await unlink(path)
}
