/**
 * Character devices: where a monitor's clients come from. A device hands its user a stream for
 * each client, or one stream for as long as it lasts.
 */
import type { Duplex } from 'node:stream'
import type { Authorise } from '../../tls/accept.ts'
import type { TlsCredentials } from '../../tls/credentials.ts'
import type { Endpoint } from '../../tls/sanity-check.ts'
import type { PropertyValues } from '../qom/property-values.ts'
import type { ChardevBackend, ChardevData, ChardevKind } from '../schema/chardev-backend.ts'
import type { RingBuffer } from './ring-buffer.ts'

/** Takes a client; settles when the client is gone. */
export type Serve = (client: Duplex) => Promise<void>

export interface Chardev extends AsyncDisposable {
  /** As `query-chardev` describes it at this moment. */
  readonly filename: string
  /** Every client, also those that have come before, is handed to `serve`. */
  attach(serve: Serve): void
  /** Settles when the first client is there, for those that wait for it. */
  readonly ready?: Promise<void>
  /** Path of the terminal that was made. */
  readonly pty?: string
  /** What was written, where that is kept. */
  readonly ring?: RingBuffer
  /** Those that QEMU's object has beyond its type. */
  readonly values?: PropertyValues
  /** May be used any number of times, and never removed: QEMU's multiplexer. */
  readonly shared?: boolean
}

/** What a backend may ask of the daemon it belongs to. */
export interface ChardevContext {
  /** Fires when the daemon ends. */
  readonly signal: AbortSignal
  /** Standard input and output, which one device may have. */
  takeStdio(): Duplex
  /** Makes a device the user of another, which counts as open while `isOpen` says so. */
  attach(id: string, serve: Serve, isOpen: () => boolean): void
  readonly has: (id: string) => boolean
  /** The object that has the name; throws when there is none of that kind for that side. */
  tlsCredentials(id: string, endpoint: Endpoint): TlsCredentials
  /** Asks the object that has the name, whenever a client comes. */
  authorisation(id: string): Authorise
  /** Ends the daemon. */
  quit(): void
}

/** One kind of device. */
export type OpenChardev<K extends ChardevKind> = (
  data: ChardevData<K>,
  context: ChardevContext,
) => Chardev | Promise<Chardev>

export type { ChardevBackend, ChardevData, ChardevKind }
