/** Requests of our client, and what becomes of them. */
import type { BlockError } from '../../errors.ts'
import type { Cookie } from '../../wire/nbd/transmission.ts'
import type { ClientTls } from './start-tls.ts'

/** What is asked of the server. */
export interface ClientRequest {
  /** For messages: `read`, `write zeroes`. */
  readonly name: string
  readonly type: number
  readonly flags: number
  readonly offset: number
  readonly length: number
  /** Of a write. It is the connection's until the request has settled. */
  readonly payload?: Uint8Array
  /** Of a read, filled. It is the connection's until the request has settled. */
  readonly target?: Uint8Array
  /** Of a block status request: called with each run of the context with `contextId`. */
  readonly onStatus?: (contextId: number, length: number, flags: number) => void
}

/** What is asked for in the handshake. */
export interface ClientWishes {
  readonly exportName: string
  readonly contexts: readonly string[]
  readonly tls?: ClientTls
}

/** A request under way. */
export interface Pending {
  readonly request: ClientRequest
  readonly cookie: Cookie
  /** Taken away when the caller has given up: data is dropped from then on. */
  target: Uint8Array | undefined
  /** Bytes of a read that have come. */
  received: number
  /** The first error that the server told of. */
  error: BlockError | undefined
  /** The payload has left, so the caller may have its buffer back. */
  sent: boolean
  /** The server is done with it. */
  answered: boolean
  /** The caller has given up and hears this. */
  abandoned: { readonly reason: unknown } | undefined
  settle(error: unknown): void
}
