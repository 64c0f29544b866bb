/**
 * The way to a server that may be lost and found again: requests go to the connection that there
 * is. When it ends they fail, or, with a reconnect delay, wait for the next one and are sent again,
 * which is safe for every NBD command.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { BlockError } from '../../errors.ts'
import { addressText, type NbdAddress } from './address.ts'
import { NbdClient } from './client.ts'
import type { ClientRequest } from './client-request.ts'
import { connectTo } from './dial.ts'
import type { ExportFacts } from './handshake.ts'
import { handshakeTimeoutMs, reconnectPauseMs } from './limits.ts'
import type { ClientTls } from './start-tls.ts'

export interface LinkOptions {
  readonly address: NbdAddress
  readonly exportName: string
  readonly contexts: readonly string[]
  /** Nothing is said in the clear but that TLS is wanted. */
  readonly tls?: ClientTls
  /** How long opening goes on trying to connect, in milliseconds; 0 tries once. */
  readonly openTimeoutMs: number
  /** How long requests wait for a lost server to come back, in milliseconds; 0 does not. */
  readonly reconnectDelayMs: number
}

export class Link implements AsyncDisposable {
  readonly #options: LinkOptions
  readonly #closing = new AbortController()
  #client: NbdClient
  /** How long to look for a lost server. When that was in vain, requests look once more each. */
  #patienceMs: number
  /** While the server is gone: who looks for it. */
  #reconnecting: Promise<NbdClient> | undefined

  private constructor(options: LinkOptions, client: NbdClient) {
    this.#options = options
    this.#client = client
    this.#patienceMs = options.reconnectDelayMs
  }

  static async open(options: LinkOptions, signal: AbortSignal): Promise<Link> {
    const client = await persistently(options, options.openTimeoutMs, signal)
    return new Link(options, client)
  }

  get facts(): ExportFacts {
    return this.#client.facts
  }

  /** Whether requests that move no data can have any length, and not 32 bits alone. */
  get extended(): boolean {
    return this.#client.extended
  }

  /** See `NbdClient.send`. */
  send(request: ClientRequest, signal: AbortSignal): Promise<void> {
    if (this.#options.reconnectDelayMs === 0) return this.#client.send(request, signal)
    return this.#sendAgain(request, signal)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing.abort(new BlockError('CLOSED', `${nameOf(this.#options)} is closed`))
    await this.#reconnecting?.catch(() => {})
    await this.#client[Symbol.asyncDispose]()
  }

  async #sendAgain(request: ClientRequest, signal: AbortSignal): Promise<void> {
    for (;;) {
      const client = await this.#living(signal)
      try {
        return await client.send(request, signal)
      } catch (error) {
        // A server that breaks the protocol would do so again.
        const lost = client.failure === error && client.failure?.code === 'IO'
        if (!lost || signal.aborted) throw error
      }
    }
  }

  /** A connection that was alive a moment ago. Throws when there is none to be had. */
  async #living(signal: AbortSignal): Promise<NbdClient> {
    this.#closing.signal.throwIfAborted()
    if (!this.#client.failure) return this.#client
    this.#reconnecting ??= this.#reconnect()
    return await abortable(this.#reconnecting, signal)
  }

  async #reconnect(): Promise<NbdClient> {
    const lost = this.#client
    const patienceMs = this.#patienceMs
    this.#patienceMs = 0
    try {
      const found = await persistently(this.#options, patienceMs, this.#closing.signal)
      // What was asked in 64 bits would not fit into 32.
      const narrower = lost.extended && !found.extended
      if (narrower || !sameDisk(lost.facts, found.facts)) {
        await found[Symbol.asyncDispose]()
        throw new BlockError('PEER', `${nameOf(this.#options)} has come back as another disk`)
      }
      this.#client = found
      this.#patienceMs = this.#options.reconnectDelayMs
      await lost[Symbol.asyncDispose]()
      return found
    } finally {
      this.#reconnecting = undefined
    }
  }
}

/** As messages name it. */
function nameOf({ address }: LinkOptions): string {
  return `NBD server '${addressText(address)}'`
}

/** Requests that were made for one must do for the other. */
function sameDisk(before: ExportFacts, now: ExportFacts): boolean {
  return (
    before.size === now.size &&
    before.transmissionFlags === now.transmissionFlags &&
    before.contexts.size === now.contexts.size &&
    [...before.contexts].every(([name, id]) => now.contexts.get(name) === id) &&
    before.blockSizes?.minimum === now.blockSizes?.minimum &&
    before.blockSizes?.maximum === now.blockSizes?.maximum
  )
}

/** Tries to connect, again and again for `patienceMs`. */
async function persistently(
  options: LinkOptions,
  patienceMs: number,
  signal: AbortSignal,
): Promise<NbdClient> {
  const deadline = Date.now() + patienceMs
  for (;;) {
    try {
      return await connectOnce(options, signal)
    } catch (error) {
      if (signal.aborted || Date.now() + reconnectPauseMs > deadline || isFinal(error)) throw error
      await sleep(reconnectPauseMs, undefined, { signal }).catch(() => signal.throwIfAborted())
    }
  }
}

/** Whether trying again is in vain: the server is there and says no. */
function isFinal(error: unknown): boolean {
  return error instanceof BlockError && !['IO', 'PERMISSION'].includes(error.code)
}

async function connectOnce(options: LinkOptions, signal: AbortSignal): Promise<NbdClient> {
  const patience = AbortSignal.timeout(handshakeTimeoutMs)
  const either = AbortSignal.any([signal, patience])
  try {
    const socket = await connectTo(options.address, either)
    return await NbdClient.open(socket, nameOf(options), options, either)
  } catch (error) {
    if (signal.aborted || !patience.aborted) throw error
    throw new BlockError(
      'IO',
      `${nameOf(options)} did not answer within ${handshakeTimeoutMs / 1000} seconds`,
      { errno: 'ETIMEDOUT' },
    )
  }
}

/** `promise`, or a rejection with `signal.reason` if that comes first. */
async function abortable<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted()
  return await new Promise<T>((resolve, reject) => {
    const stop = () => reject(signal.reason)
    signal.addEventListener('abort', stop, { once: true })
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', stop))
  })
}
