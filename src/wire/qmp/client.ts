/**
 * A QMP client: one connection to a monitor, commands matched to their replies by id, events to
 * whoever listens. When the connection is lost every command that waits fails with one error, the
 * same that `lost` carries.
 */
import { EventEmitter } from 'node:events'
import { connect, type Socket } from 'node:net'
import { BlockError, systemError } from '../../errors.ts'
import { type Json, JsonStream } from './parser.ts'
import { printJson } from './printer.ts'

export interface QmpEvent {
  readonly event: string
  readonly data: Readonly<Record<string, Json>>
}

export interface QmpClientOptions {
  /** How long to wait for the greeting; a monitor that serves somebody else does not greet. */
  readonly greetingMs?: number
  readonly signal?: AbortSignal
}

/** The monitor refused a command; the message is what it said. */
export class QmpCommandError extends BlockError {
  /** `CommandNotFound`, `GenericError`, … */
  readonly class: string

  constructor(errorClass: string, description: string) {
    super(errorClass === 'CommandNotFound' ? 'UNSUPPORTED' : 'INVALID_ARGUMENT', description)
    this.class = errorClass
  }
}

const defaultGreetingMs = 5000

interface Waiting {
  resolve(value: Json): void
  reject(error: unknown): void
}

export class QmpClient extends EventEmitter<{ event: [QmpEvent] }> implements AsyncDisposable {
  /** As the user wrote it. */
  readonly address: string
  readonly #socket: Socket
  readonly #lost = new AbortController()
  readonly #messages = new JsonStream()
  readonly #waiting = new Map<number, Waiting>()
  readonly #greeting: Promise<void>
  #greeted!: () => void
  #nextId = 1

  private constructor(address: string, socket: Socket) {
    super()
    this.address = address
    this.#socket = socket
    this.#greeting = new Promise((resolve) => {
      this.#greeted = resolve
    })
    socket.on('data', (chunk: Buffer) => this.#take(chunk))
    socket.on('error', (error) => this.#lose(error))
    socket.on('close', () => this.#lose(undefined))
    if (socket.destroyed) this.#lose(undefined)
  }

  /**
   * Connects to `/path/of/socket`, `unix:PATH`, `HOST:PORT` or `tcp:HOST:PORT` and negotiates.
   * Rejects with a sentence that names the address.
   */
  static async connect(address: string, options: QmpClientOptions = {}): Promise<QmpClient> {
    const socket = await openSocket(address, options.signal)
    const client = new QmpClient(address, socket)
    try {
      await client.#awaitGreeting(options.greetingMs ?? defaultGreetingMs, options.signal)
      await client.execute('qmp_capabilities')
      return client
    } catch (error) {
      await client[Symbol.asyncDispose]()
      throw error
    }
  }

  /** Aborted when the connection is gone, with the error as its reason. */
  get lost(): AbortSignal {
    return this.#lost.signal
  }

  /** What the command returned; rejects with `QmpCommandError` when the monitor refused it. */
  async execute(command: string, args?: Readonly<Record<string, unknown>>): Promise<Json> {
    this.lost.throwIfAborted()
    const id = this.#nextId++
    const reply = new Promise<Json>((resolve, reject) => this.#waiting.set(id, { resolve, reject }))
    this.#socket.write(`${printJson({ execute: command, arguments: args, id })}\r\n`)
    return await reply
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#socket.destroy()
    this.#lose(undefined)
  }

  async #awaitGreeting(timeoutMs: number, signal: AbortSignal | undefined): Promise<void> {
    const ends = [this.lost, AbortSignal.timeout(timeoutMs), ...(signal ? [signal] : [])]
    const given = AbortSignal.any(ends)
    let stop = () => {}
    const ended = new Promise<never>((_, reject) => {
      stop = () => reject(given.reason)
      given.addEventListener('abort', stop)
    })
    try {
      await Promise.race([this.#greeting, ended])
    } catch (error) {
      if (!(error instanceof Error) || error.name !== 'TimeoutError') throw error
      throw new BlockError(
        'PEER',
        `the monitor at '${this.address}' does not greet; ` +
          'it may be serving another client, or be no QMP monitor',
      )
    } finally {
      given.removeEventListener('abort', stop)
    }
  }

  #take(chunk: Buffer): void {
    for (const message of this.#messages.push(chunk)) {
      if ('error' in message || !isObject(message.value)) {
        const what = 'error' in message ? message.error : 'a message that is no object'
        this.#socket.destroy()
        this.#lose(new BlockError('PEER', `'${this.address}' does not speak QMP: ${what}`))
        return
      }
      this.#dispatch(message.value)
    }
  }

  #dispatch(message: Readonly<Record<string, Json>>): void {
    if ('QMP' in message) this.#greeted()
    else if (typeof message.event === 'string') {
      const data = isObject(message.data) ? message.data : {}
      this.emit('event', { event: message.event, data })
    } else this.#settle(message)
  }

  /** A reply without an id belongs to a command that could not be read; that is the oldest. */
  #settle(message: Readonly<Record<string, Json>>): void {
    const id = typeof message.id === 'number' ? message.id : this.#waiting.keys().next().value
    const waiting = id === undefined ? undefined : this.#waiting.get(id)
    if (id === undefined || !waiting) return
    this.#waiting.delete(id)
    if (!('error' in message)) waiting.resolve(message.return ?? {})
    else {
      const error = isObject(message.error) ? message.error : {}
      waiting.reject(
        new QmpCommandError(String(error.class ?? 'GenericError'), String(error.desc ?? 'failed')),
      )
    }
  }

  #lose(cause: Error | undefined): void {
    if (this.lost.aborted) return
    const error =
      cause instanceof BlockError
        ? cause
        : new BlockError('CLOSED', `the connection to the monitor at '${this.address}' was lost`, {
            cause,
          })
    this.#lost.abort(error)
    for (const { reject } of this.#waiting.values()) reject(error)
    this.#waiting.clear()
  }
}

function isObject(value: Json | undefined): value is Readonly<Record<string, Json>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

async function openSocket(address: string, signal: AbortSignal | undefined): Promise<Socket> {
  signal?.throwIfAborted()
  const socket = connect(parseQmpAddress(address))
  // Between connecting and being taken over, too, an error must not end the process.
  socket.on('error', () => {})
  const abort = () => socket.destroy(signal?.reason as Error)
  signal?.addEventListener('abort', abort)
  try {
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve)
      socket.once('error', reject)
    })
    return socket
  } catch (error) {
    socket.destroy()
    if (signal?.aborted) throw signal.reason
    throw systemError(error, `Could not connect to the monitor at '${address}'`, { path: address })
  } finally {
    signal?.removeEventListener('abort', abort)
  }
}

/** Where a monitor listens. What looks like `HOST:PORT` is TCP; everything else is a socket file. */
export function parseQmpAddress(
  address: string,
): { readonly path: string } | { readonly host: string; readonly port: number } {
  if (address.startsWith('unix:')) return { path: address.slice('unix:'.length) }
  const tcp = /^(?:tcp:)?(\[[0-9a-f:.]+\]|[^/:]+)?:(\d{1,5})$/i.exec(address)
  if (!tcp) return { path: address }
  const host = (tcp[1] ?? 'localhost').replace(/^\[(.*)\]$/, '$1')
  const port = Number(tcp[2])
  if (port > 0 && port < 65536) return { host, port }
  throw new BlockError('INVALID_ARGUMENT', `'${address}' names no TCP port from 1 to 65535`)
}
