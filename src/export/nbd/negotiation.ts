/**
 * The handshake, from the greeting to the transmission phase: fixed newstyle, one small function
 * per option. It knows bytes and exports, but no sockets.
 */
import {
  IHAVEOPT,
  NBD_FLAG_C_FIXED_NEWSTYLE,
  NBD_FLAG_C_NO_ZEROES,
  NBD_FLAG_FIXED_NEWSTYLE,
  NBD_FLAG_NO_ZEROES,
  NBD_OPT_EXPORT_NAME,
  NBD_REP_ERR_TOO_BIG,
  NBD_REP_MAGIC,
  NBDMAGIC,
} from '../../wire/nbd/constants.ts'
import { clientFlags, greeting, optionHeader, optionReplyHeader } from '../../wire/nbd/handshake.ts'
import type { SelectedContext } from './command.ts'
import type { NbdExport } from './export.ts'
import { maxDrainedOption, maxOptionLength } from './limits.ts'
import { answerOption } from './options.ts'

/** What the handshake asks of the connection that it runs on. */
export interface NegotiationHost {
  /** Exports that clients may know of. */
  readonly exports: ReadonlyMap<string, NbdExport>
  /** Whether TLS can be started, must be started, or has been. */
  readonly tls: 'none' | 'required' | 'active'
  /** The server is about to close: options get NBD_REP_ERR_SHUTDOWN. */
  readonly shuttingDown: boolean
  send(bytes: Uint8Array): void
  /** Whether the client reads its replies; when not, `proceed` is called later. */
  mayAnswer(): boolean
  /** The client has chosen. `rest` is what it sent behind its choice. */
  transmit(agreement: Agreement, rest: Uint8Array): void
  /** NBD_OPT_STARTTLS has been acknowledged. */
  startTls(): void
  /** The session ends: `violation` says what the client did wrong, if it did. */
  close(violation?: string): void
}

/** Simple replies; chunks (NBD_OPT_STRUCTURED_REPLY); or NBD_OPT_EXTENDED_HEADERS. */
export type ReplyKind = 'simple' | 'structured' | 'extended'

/** What the client and the server have agreed on. */
export interface Agreement {
  readonly export: NbdExport
  readonly replies: ReplyKind
  readonly contexts: readonly SelectedContext[]
}

/** What options change. */
export interface NegotiationState {
  replies: ReplyKind
  /** Result of the last NBD_OPT_SET_META_CONTEXT, which holds for one export. */
  selection:
    | { readonly exportName: string; readonly contexts: readonly SelectedContext[] }
    | undefined
  /** NBD_FLAG_C_NO_ZEROES was agreed on. */
  noZeroes: boolean
}

export interface Option {
  readonly option: number
  readonly data: Uint8Array
}

export class Negotiation {
  readonly #host: NegotiationHost
  readonly #state: NegotiationState = {
    replies: 'simple',
    selection: undefined,
    noZeroes: false,
  }
  #phase: 'flags' | 'options' | 'done' = 'flags'
  #fixed = false
  #received = new Uint8Array(0)
  /** Bytes of an option that is too long, still to be dropped. */
  #dropping: { readonly option: number; left: number } | undefined

  /** `resumed` after TLS has been started: the client goes on with options. */
  constructor(host: NegotiationHost, resumed: boolean) {
    this.#host = host
    if (resumed) {
      this.#phase = 'options'
      this.#fixed = true
    } else {
      host.send(
        greeting.encode({
          nbdMagic: NBDMAGIC,
          optionMagic: IHAVEOPT,
          handshakeFlags: NBD_FLAG_FIXED_NEWSTYLE + NBD_FLAG_NO_ZEROES,
        }),
      )
    }
  }

  /** Whether received bytes wait for the client to read its replies. */
  get waiting(): boolean {
    return this.#phase !== 'done' && this.#received.length > 0 && !this.#host.mayAnswer()
  }

  receive(chunk: Uint8Array): void {
    this.#received = this.#received.length === 0 ? chunk.slice() : concat(this.#received, chunk)
    this.proceed()
  }

  /** Handles what has been received, as far as it is complete. */
  proceed(): void {
    while (this.#phase !== 'done' && this.#host.mayAnswer() && this.#step());
  }

  /** One message. False when it is not complete yet. */
  #step(): boolean {
    if (this.#dropping) return this.#drop(this.#dropping)
    return this.#phase === 'flags' ? this.#takeFlags() : this.#takeOption()
  }

  #takeFlags(): boolean {
    if (this.#received.length < clientFlags.size) return false
    const { flags } = clientFlags.decode(this.#take(clientFlags.size))
    const known = NBD_FLAG_C_FIXED_NEWSTYLE + NBD_FLAG_C_NO_ZEROES
    if ((flags & ~known) !== 0) return this.#violation(`unknown client flags ${flags}`)
    this.#fixed = (flags & NBD_FLAG_C_FIXED_NEWSTYLE) !== 0
    this.#state.noZeroes = (flags & NBD_FLAG_C_NO_ZEROES) !== 0
    this.#phase = 'options'
    return true
  }

  #takeOption(): boolean {
    if (this.#received.length < optionHeader.size) return false
    const { magic, option, length } = optionHeader.decode(this.#received)
    if (magic !== IHAVEOPT) return this.#violation('an option without the magic number')
    if (!this.#fixed && option !== NBD_OPT_EXPORT_NAME) {
      return this.#violation(`option ${option} without fixed newstyle`)
    }
    if (length > maxOptionLength) return this.#tooLong(option, length)
    if (this.#received.length < optionHeader.size + length) return false
    this.#take(optionHeader.size)
    return this.#answer({ option, data: this.#take(length) })
  }

  #tooLong(option: number, length: number): boolean {
    if (option === NBD_OPT_EXPORT_NAME || length > maxDrainedOption) {
      return this.#violation(`option ${option} with ${length} bytes of data`)
    }
    this.#take(optionHeader.size)
    this.#dropping = { option, left: length }
    return true
  }

  #drop(dropping: { readonly option: number; left: number }): boolean {
    dropping.left -= this.#take(Math.min(dropping.left, this.#received.length)).length
    if (dropping.left > 0) return false
    this.#dropping = undefined
    const limit = `an option may have ${maxOptionLength} bytes of data`
    this.reply(dropping.option, NBD_REP_ERR_TOO_BIG, Buffer.from(limit))
    return true
  }

  #answer(option: Option): boolean {
    const outcome = answerOption(this, this.#host, this.#state, option)
    if (outcome === 'next') return true
    this.#phase = 'done'
    const rest = this.#received
    this.#received = new Uint8Array(0)
    if (outcome === 'close') this.#host.close()
    else if (outcome !== 'tls') this.#host.transmit(outcome, rest)
    // What came in the clear behind NBD_OPT_STARTTLS could be anybody's.
    else if (rest.length > 0) this.#host.close('data behind NBD_OPT_STARTTLS')
    else this.#host.startTls()
    return false
  }

  reply(option: number, type: number, data: Uint8Array = new Uint8Array(0)): void {
    const header = { magic: NBD_REP_MAGIC, option, type, length: data.length }
    this.#host.send(concat(optionReplyHeader.encode(header), data))
  }

  #violation(what: string): false {
    this.#phase = 'done'
    this.#received = new Uint8Array(0)
    this.#host.close(what)
    return false
  }

  /** The next `length` bytes, which are there. */
  #take(length: number): Uint8Array {
    const taken = this.#received.subarray(0, length)
    this.#received = this.#received.subarray(length)
    return taken
  }
}

function concat(first: Uint8Array, second: Uint8Array): Uint8Array<ArrayBuffer> {
  const result = new Uint8Array(first.length + second.length)
  result.set(first)
  result.set(second, first.length)
  return result
}
