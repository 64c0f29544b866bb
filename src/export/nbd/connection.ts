/**
 * One client from its connecting to the end of its last request: the socket, the phase that it is
 * in, and the ways in which it can end.
 */
import { setMaxListeners } from 'node:events'
import type { Socket } from 'node:net'
import { BlockError } from '../../errors.ts'
import { type Authorise, acceptTls } from '../../tls/accept.ts'
import type { TlsCredentials } from '../../tls/credentials.ts'
import type { IdlePoll } from '../idle-poll.ts'
import type { NbdExport } from './export.ts'
import { drainTimeoutMs, handshakeTimeoutMs, keepAliveMs, maxUnreadReplies } from './limits.ts'
import { type Agreement, Negotiation, type NegotiationHost } from './negotiation.ts'
import type { SlabPool } from './slab.ts'
import { Transmission } from './transmission.ts'

/** What a connection needs of its server. */
export interface ConnectionHost {
  readonly exports: ReadonlyMap<string, NbdExport>
  readonly pool: SlabPool
  readonly poll: IdlePoll
  readonly tls: TlsCredentials | undefined
  readonly authorise: Authorise | undefined
  readonly shuttingDown: boolean
  /** Called once, when the socket is closed and no request is under way any more. */
  onGone(connection: Connection, violation: string | undefined): void
}

export class Connection implements NegotiationHost {
  readonly #host: ConnectionHost
  readonly #abort = new AbortController()
  #socket: Socket
  #secure = false
  #phase: Negotiation | Transmission | undefined
  #export: NbdExport | undefined
  #timer: NodeJS.Timeout | undefined
  #socketClosed = false
  /** Whether no request is, or will be, under way. */
  #idle = true
  #gone = false
  #violation: string | undefined

  constructor(socket: Socket, host: ConnectionHost) {
    this.#socket = socket
    this.#host = host
    // Each request under way may listen.
    setMaxListeners(0, this.#abort.signal)
    socket.setNoDelay(true)
    // A client whose machine is gone says nothing; the kernel finds out.
    socket.setKeepAlive(true, keepAliveMs)
    this.#listen(socket)
    this.#timer = setTimeout(
      () => this.close(`no export chosen within ${handshakeTimeoutMs} ms`),
      handshakeTimeoutMs,
    )
    this.#phase = new Negotiation(this, false)
  }

  /** The export that the client has chosen. */
  get export(): NbdExport | undefined {
    return this.#export
  }

  get exports(): ReadonlyMap<string, NbdExport> {
    return this.#host.exports
  }

  get shuttingDown(): boolean {
    return this.#host.shuttingDown
  }

  get tls(): 'none' | 'required' | 'active' {
    if (this.#secure) return 'active'
    return this.#host.tls ? 'required' : 'none'
  }

  send(bytes: Uint8Array): void {
    this.#socket.write(bytes)
  }

  mayAnswer(): boolean {
    return this.#socket.writableLength < maxUnreadReplies
  }

  transmit({ export: chosen, replies, contexts }: Agreement, rest: Uint8Array): void {
    clearTimeout(this.#timer)
    this.#export = chosen
    this.#idle = false
    const transmission = new Transmission({
      export: chosen,
      replies,
      contexts,
      socket: this.#socket,
      secure: this.#secure,
      pool: this.#host.pool,
      poll: this.#host.poll,
      signal: this.#abort.signal,
      onBusy: (busy) => void (busy ? this.#socket.pause() : this.#socket.resume()),
      onEnd: (violation) => this.#ended(violation),
    })
    this.#phase = transmission
    if (rest.length > 0) transmission.receive(rest)
  }

  startTls(): void {
    const credentials = this.#host.tls
    if (!credentials) throw new Error('TLS was acknowledged without credentials')
    const plain = this.#socket
    plain.removeAllListeners()
    // A failure of the plain socket is reported by the TLS socket, or by the handshake.
    plain.on('error', () => {})
    plain.once('close', () => this.#closed())
    this.#phase = undefined
    acceptTls(plain, credentials, this.#host.authorise, (secured) => {
      if (secured instanceof Error) return this.close(secured.message)
      this.#socket = secured
      this.#secure = true
      this.#listen(secured)
      this.#phase = new Negotiation(this, true)
    })
  }

  /** Ends the session when what has been written is sent. */
  close(violation?: string): void {
    this.#violation ??= violation
    if (violation === undefined) this.#leave()
    else this.#socket.destroy()
  }

  /**
   * Takes no further requests, answers those under way, and closes. A client that does not take
   * its last replies in time is cut off, and what is still under way is aborted.
   */
  shutDown(): void {
    if (this.#gone) return
    if (this.#phase instanceof Transmission) {
      this.#limit('the server is shutting down')
      this.#phase.end()
    } else {
      this.#socket.destroy()
    }
  }

  #listen(socket: Socket): void {
    socket.on('data', (chunk: Uint8Array) => this.#received(chunk))
    socket.on('drain', () => this.#drained())
    socket.on('end', () => this.#ending())
    socket.on('error', () => this.#broken())
    socket.once('close', () => this.#closed())
  }

  #received(chunk: Uint8Array): void {
    this.#phase?.receive(chunk)
    if (this.#phase instanceof Negotiation && this.#phase.waiting) this.#socket.pause()
  }

  /** A client that had not read the replies to its options has done so. */
  #drained(): void {
    if (!(this.#phase instanceof Negotiation)) return
    this.#phase.proceed()
    const waiting = this.#phase instanceof Transmission ? this.#phase.busy : this.#phase.waiting
    if (!waiting) this.#socket.resume()
  }

  /** The client sends nothing more, but may wait for replies. */
  #ending(): void {
    if (this.#phase instanceof Transmission) this.#phase.end()
    else this.#socket.destroy()
  }

  /** Every request has been answered and none will follow. */
  #ended(violation: string | undefined): void {
    this.#violation ??= violation
    this.#idle = true
    if (this.#socketClosed) this.#settle()
    else this.#leave()
  }

  #leave(): void {
    this.#limit('the client does not take its replies')
    this.#socket.destroySoon()
  }

  /** Time for the last replies to leave. */
  #limit(reason: string): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => {
      this.#abort.abort(new BlockError('CLOSED', reason))
      this.#socket.destroy()
    }, drainTimeoutMs)
  }

  /**
   * What went wrong with the socket does not matter: 'close' follows, and the client is gone. But
   * replies to a broken socket settle at once, and a disk that answers at once would be read for all
   * that the client has asked before the event loop comes to the closing.
   */
  #broken(): void {
    this.#abort.abort(new BlockError('CLOSED', 'the NBD client is gone'))
    if (this.#phase instanceof Transmission) this.#phase.end()
  }

  #closed(): void {
    if (this.#socketClosed) return
    this.#socketClosed = true
    clearTimeout(this.#timer)
    this.#abort.abort(new BlockError('CLOSED', 'the NBD client is gone'))
    if (this.#phase instanceof Transmission) this.#phase.close()
    if (this.#idle) this.#settle()
  }

  #settle(): void {
    if (this.#gone) return
    this.#gone = true
    clearTimeout(this.#timer)
    this.#host.onGone(this, this.#violation)
  }
}
