/**
 * The NBD server: one listening socket, any number of exports, each client a `Connection`.
 *
 * It makes its Unix socket for its own user alone (mode 0600), holds clients beyond the limit
 * back until a place is free, and closes with all requests settled, so that a layer can be closed
 * as soon as its export is removed.
 */

import { channel } from 'node:diagnostics_channel'
import { chmodSync, existsSync } from 'node:fs'
import { unlink } from 'node:fs/promises'
import {
  type AddressInfo,
  connect,
  createServer,
  type ListenOptions,
  type Server,
  type Socket,
} from 'node:net'
import { dirname } from 'node:path'
import { BlockError, systemError } from '../../errors.ts'
import { sys } from '../../sys/current.ts'
import type { Authorise } from '../../tls/accept.ts'
import { checkEndpoint, type TlsCredentials } from '../../tls/credentials.ts'
import { IdlePoll } from '../idle-poll.ts'
import { Connection } from './connection.ts'
import { type ExportOptions, NbdExport } from './export.ts'
import { defaultMaxConnections, maxWaitingConnections, muchFreed } from './limits.ts'
import { SlabPool } from './slab.ts'

/** Messages say which client came or went: its export, and what it did wrong if it did. */
const clients = channel('nbd:client')

export interface NbdServerOptions {
  /** A Unix socket; an abstract one begins with a NUL. */
  readonly path?: string
  /** Or TCP: the address to bind to, all by default, and the port; 0 takes a free one. */
  readonly host?: string
  readonly port?: number
  /** Or a listening socket that is already there. */
  readonly fd?: number
  /** Clients served at a time; further ones wait. 0 means any number. */
  readonly maxConnections?: number
  /** With credentials, nothing but NBD_OPT_STARTTLS is answered in the clear. */
  readonly tls?: TlsCredentials
  /** With `tls`: who of those with a certificate or key may come in. */
  readonly authorise?: Authorise
  /** A client is gone: how many are left, and whether it had chosen an export. */
  onClientGone?(left: number, negotiated: boolean): void
}

export class NbdServer implements AsyncDisposable {
  readonly #server: Server
  readonly #options: NbdServerOptions
  readonly #pool = new SlabPool()
  readonly #poll = new IdlePoll()
  readonly #exports = new Map<string, NbdExport>()
  readonly #connections = new Set<Connection>()
  readonly #waiting = new Set<Socket>()
  readonly #listeners = new Set<() => void>()
  #shuttingDown = false
  /** What had been freed when memory was given back; the last time that it is. */
  #freed = 0
  #givingBack = Promise.resolve()
  #closed: Promise<void> | undefined

  private constructor(server: Server, options: NbdServerOptions) {
    this.#server = server
    this.#options = options
    server.on('connection', (socket) => this.#arrived(socket))
    // Accepting failed, for want of file descriptors for instance. Clients that are served go on.
    server.on('error', (error) => clients.publish({ event: 'error', error }))
  }

  /** Throws `IO` or `PERMISSION` when the address cannot be had. */
  static async listen(options: NbdServerOptions): Promise<NbdServer> {
    if (options.tls) checkEndpoint(options.tls, 'server')
    const server = createServer({ allowHalfOpen: true })
    if (isFile(options.path)) await removeStaleSocket(options.path)
    await listening(server, options)
    return new NbdServer(server, options)
  }

  /** Where it listens: the path (`fd N` if it was given a descriptor), or address and port. */
  get address(): AddressInfo | string {
    const address = this.#server.address()
    if (address === null && this.#server.listening) return `fd ${this.#options.fd}`
    if (address === null) throw new BlockError('CLOSED', 'the NBD server is closed')
    return address
  }

  /** Clients being served. */
  get connections(): number {
    return this.#connections.size
  }

  get exports(): ReadonlyMap<string, NbdExport> {
    return this.#exports
  }

  addExport(options: ExportOptions): void {
    if (this.#exports.has(options.name)) {
      throw new BlockError('INVALID_ARGUMENT', `there is an NBD export '${options.name}' already`)
    }
    this.#exports.set(options.name, new NbdExport(options))
  }

  /**
   * Ends an export: `safe` throws `BUSY` when clients use it, `hard` disconnects them. When it
   * resolves, every request has settled and the layer may be closed.
   */
  async removeExport(name: string, { mode }: { mode: 'safe' | 'hard' }): Promise<void> {
    const removed = this.#exports.get(name)
    if (!removed) throw new BlockError('INVALID_ARGUMENT', `no NBD export '${name}'`)
    const users = [...this.#connections].filter((connection) => connection.export === removed)
    if (mode === 'safe' && users.length > 0) {
      throw new BlockError('BUSY', `NBD export '${name}' is used by ${users.length} client(s)`)
    }
    this.#exports.delete(name)
    for (const user of users) user.shutDown()
    await this.#until(() => users.every((user) => !this.#connections.has(user)))
  }

  /** Waits for requests under way, closes all connections and the listening socket. */
  [Symbol.asyncDispose](): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    this.#shuttingDown = true
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()))
    for (const socket of this.#waiting) socket.destroy()
    for (const connection of this.#connections) connection.shutDown()
    await this.#until(() => this.#connections.size === 0)
    await closed
    await this.#givingBack
  }

  #arrived(socket: Socket): void {
    const { maxConnections = defaultMaxConnections } = this.#options
    if (maxConnections === 0 || this.#connections.size < maxConnections) this.#serve(socket)
    else if (this.#waiting.size < maxWaitingConnections) this.#holdBack(socket)
    else socket.destroy()
  }

  /** Not even greeted: to the client it looks like a server that is slow to accept. */
  #holdBack(socket: Socket): void {
    this.#waiting.add(socket)
    socket.on('error', () => {})
    socket.once('close', () => this.#waiting.delete(socket))
  }

  #serve(socket: Socket): void {
    const server = this
    this.#connections.add(
      new Connection(socket, {
        exports: this.#exports,
        pool: this.#pool,
        poll: this.#poll,
        tls: this.#options.tls,
        authorise: this.#options.authorise,
        get shuttingDown() {
          return server.#shuttingDown
        },
        onGone: (connection, violation) => this.#gone(connection, violation),
      }),
    )
  }

  #gone(connection: Connection, violation: string | undefined): void {
    this.#connections.delete(connection)
    clients.publish({ event: 'gone', export: connection.export?.name, violation })
    for (const listener of [...this.#listeners]) listener()
    this.#giveBackMemory()
    this.#options.onClientGone?.(this.#connections.size, connection.export !== undefined)
    this.#admit()
  }

  /** What slow readers of long replies have cost is not kept when they leave. */
  #giveBackMemory(): void {
    if (this.#pool.freed - this.#freed < muchFreed) return
    this.#freed = this.#pool.freed
    this.#givingBack = this.#givingBack.then(() => sys().returnFreeMemory())
  }

  /** A place is free: whoever has waited longest gets it. */
  #admit(): void {
    const [next] = this.#waiting
    if (!next || this.#shuttingDown) return
    this.#waiting.delete(next)
    next.removeAllListeners()
    this.#serve(next)
  }

  async #until(condition: () => boolean): Promise<void> {
    while (!condition()) {
      await new Promise<void>((resolve) => {
        const listener = () => {
          this.#listeners.delete(listener)
          resolve()
        }
        this.#listeners.add(listener)
      })
    }
  }
}

/** Clients that the kernel keeps for us until they are accepted; it has a limit of its own. */
const backlog = 4096

function listening(server: Server, options: NbdServerOptions): Promise<void> {
  const { path, host, port, fd } = options
  const address: ListenOptions & { fd?: number } =
    path !== undefined ? { path, backlog } : fd !== undefined ? { fd } : { host, port, backlog }
  const where =
    path?.replaceAll('\0', '') ?? (fd !== undefined ? `fd ${fd}` : `${host ?? '*'}:${port}`)
  return new Promise((resolve, reject) => {
    const fail = (error: Error) => reject(listenError(error, where))
    server.once('error', fail)
    const restore = isFile(path) ? privateUmask() : undefined
    try {
      // A Unix socket is bound within this call, so the umask holds for it and nothing else.
      server.listen(address, () => {
        server.off('error', fail)
        if (isFile(path)) chmodSync(path, 0o600)
        resolve()
      })
    } finally {
      restore?.()
    }
  })
}

function listenError(error: Error, where: string): BlockError {
  if ('code' in error && (error.code === 'ENOTFOUND' || error.code === 'EAI_AGAIN')) {
    return new BlockError(
      'IO',
      `address resolution failed for ${where}: Name or service not known`,
      { errno: 'EINVAL', cause: error },
    )
  }
  // libuv says EACCES where the folder of a Unix socket is missing.
  const noFolder = where.startsWith('/') && !existsSync(dirname(where))
  const cause = noFolder
    ? Object.assign(new Error('', { cause: error }), { code: 'ENOENT' })
    : error
  return systemError(cause, `Failed to bind socket to ${where}`)
}

function isFile(path: string | undefined): path is string {
  return path !== undefined && !path.startsWith('\0')
}

/** Sockets made from now on are for our user alone. Worker threads cannot have their own umask. */
function privateUmask(): (() => void) | undefined {
  try {
    const before = process.umask(0o177)
    return () => process.umask(before)
  } catch {
    return undefined
  }
}

/** A socket that nobody listens on was left behind by a process that did not end well. */
async function removeStaleSocket(path: string): Promise<void> {
  const refused = await new Promise<boolean>((resolve) => {
    const probe = connect({ path })
    probe.once('connect', () => resolve(false))
    probe.once('error', (error) => resolve('code' in error && error.code === 'ECONNREFUSED'))
    probe.once('close', () => probe.destroy())
  })
  if (refused) await unlink(path)
}
