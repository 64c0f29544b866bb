/** A socket that we connect, and connect again when asked to. */
import { once } from 'node:events'
import { connect, Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { BlockError, errnoOf, strerror, unsupported } from '../../errors.ts'
import type { Chardev, Serve } from './chardev.ts'
import { describeAddress, resolveInet, socketDescriptor, unixPath } from './socket-address.ts'
import { leave, throughLayers } from './socket-layers.ts'
import {
  clientStream,
  ignoreEnd,
  noticeEnd,
  SocketProperties,
  type SocketSettings,
  schemeOf,
} from './socket-settings.ts'

/** The first attempt may fail where there is to be another. */
export async function openClient(settings: SocketSettings): Promise<Chardev> {
  try {
    return new SocketClient(settings, await connected(settings))
  } catch (error) {
    if (settings.reconnect > 0) return new SocketClient(settings, undefined)
    throw error
  }
}

class SocketClient implements Chardev {
  readonly values: SocketProperties
  readonly #settings: SocketSettings
  readonly #ended = new AbortController()
  #client: Socket | undefined
  /** What its user gets, once all handshakes are through. */
  #stream: Duplex | undefined
  #serve: Serve | undefined
  #session: Promise<void> | undefined
  /** Waits, and connects again; set while not connected and not given up. */
  #attempts: Promise<void> | undefined

  constructor(settings: SocketSettings, client: Socket | undefined) {
    this.#settings = settings
    this.values = new SocketProperties(
      () => this.#stream !== undefined,
      () => settings.address,
    )
    if (client) this.#take(client)
    else this.#attempts = this.#connectAgain()
  }

  get filename(): string {
    const { address } = this.#settings
    const scheme = address.type === 'inet' ? `${schemeOf(this.#settings)}:` : ''
    if (!this.#client || !this.#stream) return `disconnected:${scheme}${describeAddress(address)}`
    // Of a connected Unix socket QEMU shows its own end, which has no name.
    if (address.type !== 'inet') return 'unix:'
    const { localAddress, localPort, remoteAddress, remotePort } = this.#client
    return `${scheme}${localAddress}:${localPort} <-> ${remoteAddress}:${remotePort}`
  }

  attach(serve: Serve): void {
    this.#serve = serve
    if (this.#stream) this.#start(this.#stream, serve)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort()
    if (this.#serve && this.#client && this.#stream) leave(this.#client, this.#stream)
    else this.#client?.destroy()
    await this.#session
    await this.#attempts
  }

  #take(client: Socket): void {
    this.#client = client
    client.once('close', () => {
      this.#client = undefined
      this.#stream = undefined
      const again = this.#settings.reconnect > 0 && !this.#ended.signal.aborted
      if (again) this.#attempts = this.#connectAgain()
    })
    const stream = throughLayers(client, this.#settings)
    if (!(stream instanceof Promise)) this.#enter(client, stream)
    else {
      stream.then(
        (ready) => this.#enter(client, ready),
        () => client.destroy(),
      )
    }
  }

  #enter(client: Socket, stream: Duplex): void {
    if (client.destroyed) return
    this.#stream = stream
    if (this.#serve) this.#start(stream, this.#serve)
    else noticeEnd(stream)
  }

  #start(stream: Duplex, serve: Serve): void {
    ignoreEnd(stream)
    this.#session = serve(clientStream(stream, this.#settings)).finally(() => stream.destroy())
  }

  async #connectAgain(): Promise<void> {
    const { signal } = this.#ended
    while (!this.#client) {
      await sleep(this.#settings.reconnect * 1000, undefined, { signal }).catch(() => {})
      if (signal.aborted) return
      const client = await connected(this.#settings).catch(() => undefined)
      if (signal.aborted) client?.destroy()
      else if (client) this.#take(client)
    }
  }
}

async function connected({ address }: SocketSettings): Promise<Socket> {
  if (address.type === 'fd') return new Socket({ fd: socketDescriptor(address.str) })
  if (address.type === 'vsock') {
    throw unsupported('socket chardevs of type vsock are not supported')
  }
  const name = address.type === 'unix' ? address.path : `${address.host}:${address.port}`
  const where = address.type === 'unix' ? { path: unixPath(address) } : await resolveInet(address)
  const socket = connect(where)
  try {
    await once(socket, 'connect')
  } catch (error) {
    const reason = strerror(errnoOf(error) ?? 'EIO')
    throw new BlockError('IO', `Failed to connect to '${name}': ${reason}`, { cause: error })
  }
  socket.on('error', () => {})
  return socket
}
