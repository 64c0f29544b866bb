/**
 * Character devices: where a monitor's clients come from. A socket that listens, one that is
 * connected, or standard input and output.
 */
import { once } from 'node:events'
import { chmodSync } from 'node:fs'
import { unlink } from 'node:fs/promises'
import { connect, createServer, type Server, type Socket } from 'node:net'
import { Duplex, type Readable, type Writable } from 'node:stream'
import { BlockError, errnoOf, strerror } from '../errors.ts'
import { bindError } from './bind-error.ts'

/** Clients of one socket at a time; further ones are turned away. */
const maxClients = 64

export type ChardevOptions =
  | { readonly type: 'null' }
  | { readonly type: 'stdio'; readonly input: Readable; readonly output: Writable }
  | {
      readonly type: 'socket'
      readonly address:
        | { readonly path: string }
        | { readonly host: string; readonly port: number }
        | { readonly fd: number }
      readonly server: boolean
      /** Do not go on before the first client is there. */
      readonly wait: boolean
      /** As a client: connect again so many seconds after the connection was lost; 0 is never. */
      readonly reconnect: number
    }

export interface ChardevInfo {
  readonly label: string
  readonly filename: string
  readonly 'frontend-open': boolean
}

/** Takes a client, once a user is there; settles when the client is gone. */
type Serve = (client: Duplex) => Promise<void>

export interface Chardev extends AsyncDisposable {
  readonly filename: string
  /** Every client, also those that have come before, is handed to `serve`. */
  attach(serve: Serve): void
  /** Settles when the first client is there, for those that wait for it. */
  readonly ready: Promise<void>
}

export class ChardevTable implements AsyncDisposable {
  readonly #devices = new Map<string, Chardev>()
  readonly #used = new Set<string>()

  /** Settles when the device is open; with `wait`, when its first client is there. */
  async add(id: string, options: ChardevOptions): Promise<void> {
    if (!/^[A-Za-z][A-Za-z0-9._-]*$/.test(id)) {
      throw invalid(
        `Parameter 'id' expects an identifier\n` +
          `Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.`,
      )
    }
    if (this.#devices.has(id)) {
      throw invalid(`attempt to add duplicate property '${id}' to object (type 'container')`)
    }
    const device = await open(options)
    this.#devices.set(id, device)
    await device.ready
  }

  /** Gives the clients of a device to `serve`; a device has one user. */
  attach(id: string, serve: Serve): void {
    const device = this.#devices.get(id)
    if (!device) throw invalid(`chardev "${id}" not found`)
    if (this.#used.has(id)) throw invalid(`Device '${id}' is in use`)
    this.#used.add(id)
    device.attach(serve)
  }

  list(): ChardevInfo[] {
    return [...this.#devices].map(([label, { filename }]) => ({
      label,
      filename,
      'frontend-open': this.#used.has(label),
    }))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const device of this.#devices.values()) await device[Symbol.asyncDispose]()
    this.#devices.clear()
  }
}

async function open(options: ChardevOptions): Promise<Chardev> {
  switch (options.type) {
    case 'null':
      return new SilentDevice()
    case 'stdio':
      return new SingleDevice(Duplex.from({ readable: options.input, writable: options.output }))
    case 'socket':
      return options.server ? await ListeningDevice.open(options) : await LinkedDevice.open(options)
  }
}

type SocketOptions = ChardevOptions & { type: 'socket' }

class SilentDevice implements Chardev {
  readonly filename = 'null'
  readonly ready: Promise<void> = Promise.resolve()

  attach(): void {}

  async [Symbol.asyncDispose](): Promise<void> {}
}

class SingleDevice implements Chardev {
  readonly filename = 'stdio'
  readonly ready: Promise<void> = Promise.resolve()
  readonly #client: Duplex
  #served: Promise<void> | undefined

  constructor(client: Duplex) {
    this.#client = client
  }

  attach(serve: Serve): void {
    this.#served = serve(this.#client)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#client.destroy()
    await this.#served
  }
}

/** A socket that clients connect to, as many as like, each a session of its own. */
class ListeningDevice implements Chardev {
  readonly filename: string
  readonly ready: Promise<void>
  readonly #server: Server
  readonly #clients = new Set<Socket>()
  readonly #sessions = new Set<Promise<void>>()
  #serve: Serve | undefined
  #arrived: (() => void) | undefined

  static async open({ address, wait }: SocketOptions): Promise<ListeningDevice> {
    const server = createServer({ allowHalfOpen: true })
    const name = addressName(address)
    try {
      if ('path' in address) await removeStaleSocket(address.path)
      await listen(server, address)
    } catch (error) {
      throw bindError(error, name)
    }
    return new ListeningDevice(server, `${describe(address)},server=on`, wait)
  }

  private constructor(server: Server, filename: string, wait: boolean) {
    this.#server = server
    this.filename = filename
    this.ready = wait
      ? new Promise((resolve) => {
          this.#arrived = resolve
        })
      : Promise.resolve()
    server.on('connection', (socket) => this.#welcome(socket))
    // Accepting failed, for want of descriptors for instance. Clients that are served go on.
    server.on('error', () => {})
  }

  attach(serve: Serve): void {
    this.#serve = serve
    for (const client of this.#clients) this.#start(client, serve)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()))
    for (const client of this.#clients) client.destroySoon()
    await Promise.all(this.#sessions)
    await closed
  }

  #welcome(socket: Socket): void {
    if (this.#clients.size >= maxClients) {
      socket.destroy()
      return
    }
    this.#clients.add(socket)
    socket.on('error', () => {})
    socket.once('close', () => this.#clients.delete(socket))
    this.#arrived?.()
    if (this.#serve) this.#start(socket, this.#serve)
  }

  #start(socket: Socket, serve: Serve): void {
    const session = serve(socket).finally(() => this.#sessions.delete(session))
    this.#sessions.add(session)
  }
}

/** A socket that we connect, and connect again when asked to. */
class LinkedDevice implements Chardev {
  readonly filename: string
  readonly ready: Promise<void> = Promise.resolve()
  readonly #options: SocketOptions
  readonly #ended = new AbortController()
  #client: Socket | undefined
  #life: Promise<void> | undefined

  static async open(options: SocketOptions): Promise<LinkedDevice> {
    try {
      return new LinkedDevice(options, await connected(options.address))
    } catch (error) {
      if (options.reconnect > 0) return new LinkedDevice(options, undefined)
      const reason = strerror(errnoOf(error) ?? 'EIO')
      const name = addressName(options.address)
      throw new BlockError('IO', `Failed to connect to '${name}': ${reason}`, { cause: error })
    }
  }

  private constructor(options: SocketOptions, client: Socket | undefined) {
    this.#options = options
    this.#client = client
    this.filename = describe(options.address)
  }

  attach(serve: Serve): void {
    this.#life = this.#live(serve)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#ended.abort()
    this.#client?.destroySoon()
    await this.#life
  }

  async #live(serve: Serve): Promise<void> {
    const { address, reconnect } = this.#options
    for (;;) {
      if (this.#client) await serve(this.#client)
      this.#client?.destroy()
      this.#client = undefined
      if (reconnect === 0 || (await this.#waited(reconnect))) return
      this.#client = await connected(address).catch(() => undefined)
    }
  }

  /** Waits for the next attempt; true when there is to be none. */
  async #waited(seconds: number): Promise<boolean> {
    const { signal } = this.#ended
    if (signal.aborted) return true
    const { setTimeout: sleep } = await import('node:timers/promises')
    await sleep(seconds * 1000, undefined, { signal }).catch(() => {})
    return signal.aborted
  }
}

type Address = SocketOptions['address']

function listen(server: Server, address: Address): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject)
    // The socket is bound within this call, so the umask holds for it and nothing else.
    const before = 'path' in address ? process.umask(0o177) : undefined
    try {
      server.listen(address, () => {
        server.off('error', reject)
        if ('path' in address) chmodSync(address.path, 0o600)
        resolve()
      })
    } finally {
      if (before !== undefined) process.umask(before)
    }
  })
}

async function connected(address: Address): Promise<Socket> {
  if ('fd' in address) {
    throw invalid('a descriptor can be listened on, not connected to')
  }
  const socket = connect(address)
  await once(socket, 'connect')
  socket.on('error', () => {})
  return socket
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

function addressName(address: Address): string {
  if ('path' in address) return address.path
  return 'fd' in address ? `fd ${address.fd}` : `${address.host}:${address.port}`
}

function describe(address: Address): string {
  if ('path' in address) return `unix:${address.path}`
  return 'fd' in address ? `fd:${address.fd}` : `tcp:${address.host}:${address.port}`
}

function invalid(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { errno: 'EINVAL' })
}
