/**
 * One client of a monitor, from its greeting to its leaving: reads commands, has them executed one
 * after the other in the order they came, and writes answers and events.
 *
 * A client that does not read its answers is not read from either; one that lets events pile up
 * is cut off.
 */
import { once } from 'node:events'
import type { Duplex } from 'node:stream'
import { MiB } from '../bytes/range.ts'
import { type Json, type JsonMessage, JsonStream } from '../wire/qmp/parser.ts'
import { printJson } from '../wire/qmp/printer.ts'
import type { MonitorState } from './command.ts'
import { type ErrorReply, errorReply, QmpError } from './errors.ts'
import type { StorageDaemon } from './storage-daemon.ts'
import { qmpVersion } from './version.ts'

/** Bytes of answers and events that a client may leave unread before it is cut off. */
const maxUnread = 16 * MiB

type Request = { readonly [member: string]: Json }

export interface EventMessage {
  readonly timestamp: { readonly seconds: number; readonly microseconds: number }
  readonly event: string
  readonly data: Readonly<Record<string, unknown>>
}

export class MonitorSession {
  readonly #daemon: StorageDaemon
  readonly #connection: Duplex
  readonly #pretty: boolean
  #state: MonitorState = 'negotiation'
  #outOfBand = false

  constructor(daemon: StorageDaemon, connection: Duplex, { pretty = false } = {}) {
    this.#daemon = daemon
    this.#connection = connection
    this.#pretty = pretty
    // What went wrong with the connection does not matter: the reading ends.
    connection.on('error', () => {})
  }

  get state(): MonitorState {
    return this.#state
  }

  /** Settles when the client is gone. Commands under way are finished first. */
  async run(): Promise<void> {
    this.#send({ QMP: { version: qmpVersion, capabilities: ['oob'] } })
    const input = new JsonStream()
    try {
      for await (const chunk of this.#connection) {
        for (const message of input.push(chunk as Uint8Array)) {
          this.#send(await this.#answer(message))
          await this.#written()
        }
      }
    } catch (error) {
      // A connection that breaks ends the session; anything else is our own mistake.
      if (!this.#connection.destroyed) throw error
    }
    this.#connection.end()
  }

  /** To clients that have negotiated; the others would not expect it. */
  notify(event: EventMessage): void {
    if (this.#state !== 'command') return
    if (this.#connection.writableLength > maxUnread) this.#connection.destroy()
    else this.#send(event)
  }

  close(): void {
    // What was written is sent first.
    this.#connection.end(() => this.#connection.destroy())
  }

  /** The end of negotiation. Called by `qmp_capabilities`. */
  enterCommandMode(enable: readonly string[]): void {
    this.#outOfBand = enable.includes('oob')
    this.#state = 'command'
  }

  #send(message: unknown): void {
    if (!this.#connection.writable) return
    this.#connection.write(`${printJson(message, this.#pretty)}\r\n`)
  }

  /** Waits for a client that is slow to read. */
  async #written(): Promise<void> {
    const connection = this.#connection
    if (!connection.writableNeedDrain) return
    const given = new AbortController()
    const { signal } = given
    await Promise.race([
      once(connection, 'drain', { signal }),
      once(connection, 'close', { signal }),
    ]).catch(() => {})
    given.abort()
  }

  async #answer(message: JsonMessage): Promise<unknown> {
    if ('error' in message) return failure(genericError(message.error))
    const request = message.value
    if (typeof request !== 'object' || request === null || Array.isArray(request)) {
      return failure(genericError('QMP input must be a JSON object'))
    }
    const { id } = request as Request
    try {
      const result = await this.#execute(request as Request)
      return { return: result ?? {}, id }
    } catch (error) {
      return failure(errorReply(error), id)
    }
  }

  #execute(request: Request): Promise<unknown> {
    const { name, args, outOfBand } = this.#dissect(request)
    const command = this.#daemon.commands.get(name)
    if (this.#state === 'negotiation' && !command?.states.includes('negotiation')) {
      throw new QmpError(
        'CommandNotFound',
        "Expecting capabilities negotiation with 'qmp_capabilities'",
      )
    }
    if (command && outOfBand) {
      throw genericError(`The command ${name} does not support OOB`)
    }
    if (command && !command.states.includes(this.#state)) {
      throw new QmpError(
        'CommandNotFound',
        'Capabilities negotiation is already complete, command ignored',
      )
    }
    return this.#daemon.execute(name, args, this)
  }

  /** Takes a request apart, as strictly as QEMU. */
  #dissect(request: Request): { name: string; args: Json; outOfBand: boolean } {
    const { execute, 'exec-oob': oob, arguments: args = {} } = request
    for (const [member, value] of Object.entries(request)) {
      if (member === 'execute' || (member === 'exec-oob' && this.#outOfBand)) {
        if (typeof value !== 'string') {
          throw genericError(`QMP input member '${member}' must be a string`)
        }
      } else if (member === 'arguments') {
        if (typeof value !== 'object' || value === null || Array.isArray(value)) {
          throw genericError(`QMP input member 'arguments' must be an object`)
        }
      } else if (member !== 'id') {
        throw genericError(`QMP input member '${member}' is unexpected`)
      }
    }
    if (execute !== undefined && oob !== undefined) {
      throw genericError("QMP input member 'execute' clashes with 'exec-oob'")
    }
    const name = execute ?? oob
    if (name === undefined) throw genericError("QMP input lacks member 'execute'")
    return { name: name as string, args, outOfBand: oob !== undefined }
  }
}

function genericError(desc: string): QmpError {
  return new QmpError('GenericError', desc)
}

function failure(error: QmpError | ErrorReply, id?: Json): unknown {
  const reply = error instanceof QmpError ? errorReply(error) : error
  return { id, error: reply }
}
