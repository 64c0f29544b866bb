/**
 * A connection in the transmission phase: requests of any number of callers in one pipeline, each
 * answered by its own promise. When the connection ends, for whatever reason, every request fails
 * with that reason, at once.
 */
import type { Socket } from 'node:net'
import { neverAborted } from '../../block/layer.ts'
import { giveBack } from '../../bytes/give-back.ts'
import { viewOf } from '../../bytes/view.ts'
import { BlockError, systemError } from '../../errors.ts'
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_DISC,
  NBD_CMD_FLAG_PAYLOAD_LEN,
  NBD_CMD_READ,
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE_FLAG_ERROR,
  NBD_REPLY_TYPE_NONE,
  NBD_REPLY_TYPE_OFFSET_HOLE,
  NBD_SUCCESS,
} from '../../wire/nbd/constants.ts'
import { errorOfValue } from '../../wire/nbd/errors.ts'
import { compactLayout, extendedLayout, type Layout } from '../../wire/nbd/layout.ts'
import type { ChunkHeader, Cookie, NbdRequest } from '../../wire/nbd/transmission.ts'
import { errorValueIn, holeOf, isStatus, statusOf } from './chunk-payloads.ts'
import type { ClientRequest, ClientWishes, Pending } from './client-request.ts'
import { ClientHandshake, type ExportFacts } from './handshake.ts'
import { closeTimeoutMs, maxRequestsInFlight } from './limits.ts'
import { type DataTarget, ReplyReader, type ReplySink } from './reply-reader.ts'

export class NbdClient implements AsyncDisposable, ReplySink {
  readonly facts: ExportFacts
  readonly structured: boolean
  readonly #layout: Layout
  readonly #socket: Socket
  readonly #name: string
  readonly #reader: ReplyReader
  /** Requests by slot; the slot is the lower half of the cookie. */
  readonly #slots: (Pending | undefined)[] = new Array(maxRequestsInFlight).fill(undefined)
  readonly #free: number[] = Array.from({ length: maxRequestsInFlight }, (_, index) => index)
  readonly #waiting: (() => void)[] = []
  #serial = 0
  #corked = false
  #failure: BlockError | undefined
  readonly #closed: Promise<void>

  private constructor(
    socket: Socket,
    name: string,
    { structured, extended }: ClientHandshake,
    facts: ExportFacts,
    rest: Uint8Array,
  ) {
    this.#socket = socket
    this.#name = name
    this.structured = structured
    this.facts = facts
    this.#layout = extended ? extendedLayout : compactLayout
    this.#reader = new ReplyReader(this, this.#layout)
    this.#closed = new Promise((resolve) => socket.once('close', () => resolve()))
    socket.on('data', (chunk: Uint8Array) => this.#receive(chunk))
    socket.on('error', (error) => this.#fail(systemError(error, this.#name)))
    socket.on('end', () => this.#fail(this.#lost()))
    socket.on('close', () => this.#fail(this.#lost()))
    if (rest.length > 0) this.#receive(rest)
    socket.resume()
  }

  /**
   * Through the handshake to the transmission phase. The socket is the client's from here on, and
   * destroyed when this throws. `name` is how messages call the connection.
   */
  static async open(
    socket: Socket,
    name: string,
    { exportName, contexts, tls }: ClientWishes,
    signal: AbortSignal,
  ): Promise<NbdClient> {
    // It takes a secured socket with it.
    const stop = () => socket.destroy(signal.reason)
    signal.addEventListener('abort', stop, { once: true })
    try {
      const handshake = await ClientHandshake.begin(socket, tls)
      const selected = (await handshake.askChunks())
        ? await handshake.selectContexts(exportName, contexts)
        : new Map<string, number>()
      const { facts, rest } = await handshake.choose(exportName, selected)
      return new NbdClient(handshake.socket, name, handshake, facts, rest)
    } catch (error) {
      socket.on('error', () => {})
      socket.destroy()
      throw signal.aborted ? signal.reason : systemError(error, name)
    } finally {
      signal.removeEventListener('abort', stop)
    }
  }

  /** Whether requests that move no data can have any length, and not 32 bits alone. */
  get extended(): boolean {
    return this.#layout.extended
  }

  /** Why the connection has ended; undefined while it lives. */
  get failure(): BlockError | undefined {
    return this.#failure
  }

  /**
   * Settles when the server has answered. Rejects with the server's error, with the reason why
   * the connection ended, or with `signal.reason`; then the server may still do what was asked.
   */
  async send(request: ClientRequest, signal: AbortSignal = neverAborted): Promise<void> {
    signal.throwIfAborted()
    while (this.#free.length === 0 && !this.#failure) {
      await this.#turn(signal)
      if (signal.aborted) {
        this.#waiting.shift()?.()
        throw signal.reason
      }
    }
    if (this.#failure) throw this.#failure
    await new Promise<void>((resolve, reject) => this.#start(request, signal, resolve, reject))
  }

  /** Says goodbye. Requests that are still under way fail. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#failure) {
      this.#write(this.#header({ ...goodbye, cookieHigh: 0, cookieLow: 0 }), undefined, () => {})
      this.#failAll(new BlockError('CLOSED', `${this.#name} is closed`))
      this.#socket.destroySoon()
    }
    const impatience = setTimeout(() => this.#socket.destroy(), closeTimeoutMs)
    await this.#closed
    clearTimeout(impatience)
  }

  simple(cookie: Cookie, error: number): { length: number; target: DataTarget } | undefined {
    const pending = this.#find(cookie)
    const { request } = pending
    if (error !== NBD_SUCCESS) pending.error ??= this.#errorOf(request, error)
    if (error !== NBD_SUCCESS || request.type !== NBD_CMD_READ) {
      if (request.type === NBD_CMD_BLOCK_STATUS && error === NBD_SUCCESS) {
        throw this.#peer('a simple reply to a block status request')
      }
      this.#answered(pending)
      return undefined
    }
    if (this.structured) throw this.#peer('a simple reply to a read after structured ones')
    pending.received = request.length
    return { length: request.length, target: this.#targetOf(pending, 0, true) }
  }

  data(header: ChunkHeader, offset: number, length: number): DataTarget {
    const pending = this.#findFor(header)
    const at = this.#account(pending, offset, length)
    return this.#targetOf(pending, at, (header.flags & NBD_REPLY_FLAG_DONE) !== 0)
  }

  chunk(header: ChunkHeader, payload: Uint8Array): void {
    const pending = this.#findFor(header)
    const { type } = header
    if ((type & NBD_REPLY_TYPE_FLAG_ERROR) !== 0) this.#errorChunk(pending, payload)
    else if (type === NBD_REPLY_TYPE_OFFSET_HOLE) this.#holeChunk(pending, payload)
    else if (isStatus(type)) this.#statusChunk(pending, type, payload)
    else if (type !== NBD_REPLY_TYPE_NONE || payload.length > 0) {
      throw this.#peer(`an unexpected chunk of type ${type}`)
    }
    if ((header.flags & NBD_REPLY_FLAG_DONE) !== 0) this.#answered(pending)
  }

  #start(
    request: ClientRequest,
    signal: AbortSignal,
    resolve: () => void,
    reject: (error: unknown) => void,
  ): void {
    const slot = this.#free.pop()!
    const cookie = { cookieHigh: this.#nextSerial(), cookieLow: slot }
    const onAbort = () => this.#giveUp(pending, signal.reason)
    const settle = (error: unknown) => {
      if (signal !== neverAborted) signal.removeEventListener('abort', onAbort)
      if (error === undefined) resolve()
      else reject(error)
    }
    const pending: Pending = {
      request,
      cookie,
      target: request.target,
      received: 0,
      error: undefined,
      sent: request.payload === undefined,
      answered: false,
      abandoned: undefined,
      settle,
    }
    this.#slots[slot] = pending
    if (signal !== neverAborted) signal.addEventListener('abort', onAbort, { once: true })
    const announced = this.#layout.extended && request.payload ? NBD_CMD_FLAG_PAYLOAD_LEN : 0
    const flags = request.flags + announced
    const header = this.#header({ ...request, flags, ...cookie })
    this.#write(header, request.payload, () => this.#sent(pending))
  }

  #header(fields: NbdRequest): Uint8Array {
    const header = Buffer.allocUnsafe(this.#layout.requestSize)
    this.#layout.encodeRequest(viewOf(header), 0, fields)
    return header
  }

  /** Requests that are made in one turn leave in one write. */
  #write(header: Uint8Array, payload: Uint8Array | undefined, sent: () => void): void {
    if (!this.#corked) {
      this.#corked = true
      this.#socket.cork()
      process.nextTick(() => {
        this.#corked = false
        this.#socket.uncork()
      })
    }
    this.#socket.write(header)
    if (payload && payload.length > 0) this.#socket.write(payload, sent)
    else sent()
  }

  #sent(pending: Pending): void {
    pending.sent = true
    this.#settleIfDone(pending)
  }

  #answered(pending: Pending): void {
    const { request } = pending
    const slot = pending.cookie.cookieLow
    if (request.type === NBD_CMD_READ && !pending.error && pending.received < request.length) {
      throw this.#peer(`${pending.received} bytes in answer to a read of ${request.length}`)
    }
    pending.answered = true
    this.#slots[slot] = undefined
    this.#free.push(slot)
    this.#waiting.shift()?.()
    this.#settleIfDone(pending)
  }

  /** The caller gets its buffers back when the server has answered and the payload has left. */
  #settleIfDone(pending: Pending): void {
    if (!pending.sent) return
    if (pending.abandoned) pending.settle(pending.abandoned.reason)
    else if (pending.answered) pending.settle(pending.error)
  }

  /** The request keeps its slot until the server answers; what it answers is dropped. */
  #giveUp(pending: Pending, reason: unknown): void {
    pending.target = undefined
    pending.abandoned = { reason }
    this.#settleIfDone(pending)
  }

  /** Waits for a slot that may be free. */
  #turn(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const stop = () => {
        this.#waiting.splice(this.#waiting.indexOf(go), 1)
        reject(signal.reason)
      }
      const go = () => {
        signal.removeEventListener('abort', stop)
        resolve()
      }
      this.#waiting.push(go)
      if (signal !== neverAborted) signal.addEventListener('abort', stop, { once: true })
    })
  }

  #receive(chunk: Uint8Array): void {
    if (this.#failure) return
    try {
      this.#reader.receive(chunk)
      giveBack(chunk)
    } catch (error) {
      this.#fail(systemError(error, this.#name))
    }
  }

  /** Ends the connection. Whoever waits for anything hears why. */
  #fail(failure: BlockError): void {
    if (this.#failure) return
    this.#failAll(failure)
    this.#socket.destroy()
  }

  #failAll(failure: BlockError): void {
    this.#failure = failure
    for (const pending of this.#slots) pending?.settle(failure)
    this.#slots.fill(undefined)
    for (const go of this.#waiting.splice(0)) go()
  }

  #find(cookie: Cookie): Pending {
    const pending = this.#slots[cookie.cookieLow]
    if (pending && pending.cookie.cookieHigh === cookie.cookieHigh) return pending
    throw this.#peer('a reply to a request that nobody made')
  }

  /** Extended headers tell once more where the request began. */
  #findFor(header: ChunkHeader): Pending {
    const pending = this.#find(header)
    const { offset = pending.request.offset } = header
    if (offset === pending.request.offset) return pending
    throw this.#peer(`a reply for ${offset} to a request at ${pending.request.offset}`)
  }

  #targetOf(pending: Pending, start: number, last: boolean): DataTarget {
    return {
      take: (at, bytes) => pending.target?.set(bytes, start + at),
      done: () => {
        if (last) this.#answered(pending)
      },
    }
  }

  /** Where a run of content lies in the target. Throws when it lies elsewhere, or comes twice. */
  #account(pending: Pending, offset: number, length: number): number {
    const { request } = pending
    const at = offset - request.offset
    if (request.type !== NBD_CMD_READ || length === 0 || at < 0 || at + length > request.length) {
      throw this.#peer(`content of ${length} bytes at ${offset} that nobody asked for`)
    }
    pending.received += length
    if (pending.received > request.length) throw this.#peer('overlapping content')
    return at
  }

  #holeChunk(pending: Pending, payload: Uint8Array): void {
    const hole = holeOf(payload) ?? this.#malformed('a hole', payload)
    const at = this.#account(pending, hole.offset, hole.length)
    pending.target?.fill(0, at, at + hole.length)
  }

  #errorChunk(pending: Pending, payload: Uint8Array): void {
    const value = errorValueIn(payload) ?? this.#malformed('an error', payload)
    pending.error ??= this.#errorOf(pending.request, value)
  }

  #statusChunk({ request }: Pending, type: number, payload: Uint8Array): void {
    const wanted = request.onStatus && statusOf(this.#layout, type, payload)
    const status = wanted ?? this.#malformed('a block status', payload)
    for (const { length, flags } of status.runs) request.onStatus?.(status.contextId, length, flags)
  }

  #malformed(what: string, payload: Uint8Array): never {
    throw this.#peer(`${what} chunk of ${payload.length} bytes that nobody understands`)
  }

  #nextSerial(): number {
    this.#serial = (this.#serial + 1) % 2 ** 32
    return this.#serial
  }

  #errorOf({ name, offset, length }: ClientRequest, value: number): BlockError {
    return errorOfValue(value, `${this.#name}: ${name} of ${length} bytes at ${offset}`, offset)
  }

  #peer(what: string): BlockError {
    return new BlockError('PEER', `${this.#name}: the server sent ${what}`, { errno: 'EIO' })
  }

  #lost(): BlockError {
    return new BlockError('IO', `${this.#name}: the server closed the connection`, {
      errno: 'EIO',
    })
  }
}

const goodbye = { name: 'disconnect', type: NBD_CMD_DISC, flags: 0, offset: 0, length: 0 }
