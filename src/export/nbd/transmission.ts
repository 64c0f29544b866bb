/**
 * The transmission phase of one connection: requests in, replies out, and how much of both may be
 * under way. A request that its layer answers at once is answered in the same turn; the others
 * are counted until they settle.
 */
import { channel } from 'node:diagnostics_channel'
import type { Writable } from 'node:stream'
import { type Completion, plainZeroIo, type ZeroIo } from '../../block/layer.ts'
import { errorChunk } from '../../wire/nbd/chunks.ts'
import {
  NBD_CMD_DISC,
  NBD_CMD_FLAG_FAST_ZERO,
  NBD_EINVAL,
  NBD_REPLY_FLAG_DONE,
  NBD_SUCCESS,
} from '../../wire/nbd/constants.ts'
import { errorText, errorValueOf, fastZeroErrorValue } from '../../wire/nbd/errors.ts'
import { compactLayout, extendedLayout } from '../../wire/nbd/layout.ts'
import { encodeSimpleReply, type NbdRequest, simpleReplySize } from '../../wire/nbd/transmission.ts'
import type { IdlePoll } from '../idle-poll.ts'
import { narrowed, wantsFewerContexts } from './block-status.ts'
import {
  type Command,
  type CommandContext,
  type ConnectionIo,
  commandOf,
  refusal,
  type SelectedContext,
} from './command.ts'
import type { NbdExport } from './export.ts'
import { maxBytesInFlight, maxRequestsInFlight } from './limits.ts'
import type { ReplyKind } from './negotiation.ts'
import { sendNone } from './read-pieces.ts'
import { ReplyQueue } from './reply-queue.ts'
import { RequestReader, type RequestSink } from './request-reader.ts'
import type { Slab, SlabPool } from './slab.ts'

/** Messages have the export's name, the command, and the error that its layer gave. */
const failures = channel('nbd:request-failed')

export interface TransmissionOptions {
  readonly export: NbdExport
  readonly replies: ReplyKind
  readonly contexts: readonly SelectedContext[]
  readonly socket: Writable
  /** Whether the socket enciphers. */
  readonly secure: boolean
  readonly pool: SlabPool
  readonly poll: IdlePoll
  /** Aborted when nobody waits for the replies any more. */
  readonly signal: AbortSignal
  /** Receiving should stop, or may go on. */
  onBusy(busy: boolean): void
  /**
   * No further request will be taken, and all have been answered. `violation` says what the
   * client did wrong, if that was the reason.
   */
  onEnd(violation: string | undefined): void
}

export class Transmission implements RequestSink {
  readonly #options: TransmissionOptions
  readonly #queue: ReplyQueue
  readonly #reader: RequestReader
  readonly #context: CommandContext
  /** Requests that have begun and not settled. */
  #active = 0
  /** Bytes of payloads being written. */
  #payloadBytes = 0
  #busy = false
  #ending = false
  #violation: string | undefined

  constructor(options: TransmissionOptions) {
    const { socket, secure, pool, replies, contexts, signal } = options
    const layout = replies === 'extended' ? extendedLayout : compactLayout
    this.#options = options
    this.#queue = new ReplyQueue({ socket, pool, secure, onLeft: () => this.#advance() })
    this.#reader = new RequestReader(this, pool, layout)
    this.#context = {
      export: options.export,
      layer: options.export.layer,
      structured: replies !== 'simple',
      layout,
      contexts,
      queue: this.#queue,
      pool,
      io: connectionIo(signal),
    }
  }

  /** Whether receiving should have stopped. */
  get busy(): boolean {
    return this.#busy
  }

  /** Takes a chunk over, memory and all: its former owner finds it empty. */
  receive(chunk: Uint8Array): void {
    this.#reader.receive(chunk)
    this.#afterReading()
    this.#options.poll.heard()
  }

  /** Takes no further requests; `onEnd` follows when those under way have been answered. */
  end(): void {
    if (this.#ending) return
    this.#ending = true
    this.#reader.stop()
    this.#endIfIdle()
  }

  /** Drops the replies that have not left. Requests under way still settle. */
  close(): void {
    this.#queue.close()
    this.end()
  }

  mayBegin(): boolean {
    return (
      this.#active < maxRequestsInFlight &&
      this.#queue.heldBytes + this.#payloadBytes < maxBytesInFlight
    )
  }

  request(request: NbdRequest, payload: Uint8Array | undefined, slab: Slab | undefined): boolean {
    if (wantsFewerContexts(request)) return this.#withFewerContexts(request, payload, slab)
    return this.#take(this.#context, request, payload, slab)
  }

  violation(what: string): void {
    this.#violation = what
    this.end()
  }

  /** Whether it goes on after this turn, and so needs its payload. */
  #take(
    context: CommandContext,
    request: NbdRequest,
    payload: Uint8Array | undefined,
    slab: Slab | undefined,
  ): boolean {
    const command = commandOf(request)
    const refused = refusal(context, command, request)
    if (refused === NBD_SUCCESS && command !== undefined) {
      return this.#run(command, context, request, payload ?? nothing, slab)
    }
    if (slab) this.#options.pool.release(slab)
    if (request.type === NBD_CMD_DISC) this.end()
    else this.#replyError(request, refused, command)
    return false
  }

  #withFewerContexts(
    request: NbdRequest,
    payload: Uint8Array | undefined,
    slab: Slab | undefined,
  ): boolean {
    const asked = narrowed(this.#context, request, payload)
    if (slab) this.#options.pool.release(slab)
    if (asked) return this.#take(asked.context, asked.request, undefined, undefined)
    this.#replyError(request, NBD_EINVAL, commandOf(request))
    return false
  }

  #run(
    command: Command,
    context: CommandContext,
    request: NbdRequest,
    payload: Uint8Array,
    slab: Slab | undefined,
  ): boolean {
    const done = this.#start(command, context, request, payload)
    if (done !== undefined) this.#follow(command, request, done, payload, slab)
    else if (slab) this.#options.pool.release(slab)
    return done !== undefined
  }

  #start(
    command: Command,
    context: CommandContext,
    request: NbdRequest,
    payload: Uint8Array,
  ): Completion {
    try {
      const done = command.run(context, request, payload)
      if (done === undefined && !command.replies) this.#replyDone(request)
      return done
    } catch (error) {
      this.#fail(command, request, error)
    }
  }

  /** A request that takes longer than this turn. Both outcomes are handled here. */
  #follow(
    command: Command,
    request: NbdRequest,
    done: Promise<void>,
    payload: Uint8Array,
    slab: Slab | undefined,
  ): void {
    this.#active++
    this.#payloadBytes += payload.length
    const settle = () => {
      this.#active--
      this.#payloadBytes -= payload.length
      if (slab) this.#options.pool.release(slab)
      this.#queue.schedule()
      this.#advance()
      this.#endIfIdle()
    }
    done.then(
      () => {
        if (!command.replies) this.#replyDone(request)
        settle()
      },
      (error) => {
        this.#fail(command, request, error)
        settle()
      },
    )
  }

  /** Goes on reading after a pause, when there is room again. */
  #advance(): void {
    if (!this.#busy || !this.mayBegin()) return
    this.#reader.proceed()
    this.#afterReading()
  }

  #afterReading(): void {
    this.#queue.flush()
    if (this.#busy === this.#reader.waiting) return
    this.#busy = this.#reader.waiting
    this.#options.onBusy(this.#busy)
  }

  #endIfIdle(): void {
    if (!this.#ending || this.#active > 0) return
    this.#queue.finish()
    this.#options.onEnd(this.#violation)
  }

  #fail(command: Command, request: NbdRequest, error: unknown): void {
    if (failures.hasSubscribers) {
      failures.publish({ export: this.#context.export.name, command: command.name, request, error })
    }
    const fast = (request.flags & NBD_CMD_FLAG_FAST_ZERO) !== 0
    const value = fast ? fastZeroErrorValue(error) : errorValueOf(error)
    this.#replyError(request, value, command)
  }

  /** With extended headers there are chunks alone; else a simple reply says the same. */
  #replyDone(request: NbdRequest): void {
    if (this.#context.layout.extended) sendNone(this.#context, request)
    else this.#replySimple(request, NBD_SUCCESS)
  }

  #replySimple(request: NbdRequest, error: number): void {
    const reply = this.#queue.reserve(simpleReplySize)
    encodeSimpleReply(reply.slab.view, reply.start, request, error)
    this.#queue.send(reply, simpleReplySize)
  }

  /** The text tells people what failed; reasons that may name files stay on this side. */
  #replyError(request: NbdRequest, error: number, command: Command | undefined): void {
    if (this.#context.structured) this.#replyErrorChunk(request, error, command)
    else this.#replySimple(request, error)
  }

  #replyErrorChunk(request: NbdRequest, error: number, command: Command | undefined): void {
    const name = command?.name ?? `command ${request.type}`
    const text = `${name} of ${request.length} bytes at ${request.offset}: ${errorText(error)}`
    const { layout } = this.#context
    const chunk = errorChunk(layout, request, NBD_REPLY_FLAG_DONE, error, Buffer.from(text))
    const reply = this.#queue.reserve(chunk.length)
    reply.slab.bytes.set(chunk, reply.start)
    this.#queue.send(reply, chunk.length)
  }
}

const nothing = new Uint8Array(0)

function connectionIo(signal: AbortSignal): ConnectionIo {
  const write = { signal, fua: false, unchanged: false }
  const zeroIos = Array.from(
    { length: 8 },
    (_, bits): ZeroIo => ({
      ...plainZeroIo,
      signal,
      fua: (bits & 1) !== 0,
      mayUnmap: (bits & 2) !== 0,
      fastOnly: (bits & 4) !== 0,
    }),
  )
  return {
    read: { signal },
    write,
    fuaWrite: { ...write, fua: true },
    zero: (fua, mayUnmap, fastOnly) =>
      zeroIos[(fua ? 1 : 0) + (mayUnmap ? 2 : 0) + (fastOnly ? 4 : 0)],
  }
}
