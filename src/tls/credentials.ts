/**
 * Credentials of TLS, as QEMU's objects of type `tls-creds-x509`, `tls-creds-psk` and
 * `tls-creds-anon` have them: which side they are for, and what both sides know of each other.
 */
import { invalid } from '../errors.ts'
import type { RevocationList } from './certificate.ts'
import type { SessionSettings } from './priority.ts'
import type { PskFile } from './psk-file.ts'
import type { Endpoint } from './sanity-check.ts'

interface CommonCredentials {
  readonly endpoint: Endpoint
  /** Insist on a certificate that one of the authorities has signed. */
  readonly verifyPeer: boolean
  readonly session: SessionSettings
}

/** PEM texts. */
export interface X509Credentials extends CommonCredentials {
  readonly kind: 'x509'
  /** Authorities that sign the other side's certificates. */
  readonly authorities: Buffer
  /** Absent from clients that have none. */
  readonly own?: {
    readonly certificate: Buffer
    readonly key: Buffer
    readonly passphrase?: string
  }
  readonly revoked: readonly RevocationList[]
  readonly dhParameters?: Buffer
}

/** Keys that both sides know. */
export interface PskCredentials extends CommonCredentials {
  readonly kind: 'psk'
  readonly keys: PskFile
  /** Of a client: the user that it is, and the key. */
  readonly user?: { readonly name: string; readonly key: Uint8Array }
}

/** Nobody shows who he is: a listener in between goes unnoticed. */
export interface AnonymousCredentials extends CommonCredentials {
  readonly kind: 'anon'
  readonly dhParameters?: Buffer
}

export type TlsCredentials = X509Credentials | PskCredentials | AnonymousCredentials

export function isTlsCredentials(value: unknown): value is TlsCredentials {
  return typeof value === 'object' && value !== null && 'kind' in value && 'session' in value
}

/** Refuses credentials that are for the other side. */
export function checkEndpoint(credentials: TlsCredentials, endpoint: Endpoint): TlsCredentials {
  if (credentials.endpoint === endpoint) return credentials
  throw invalid(`Expected TLS credentials for a ${endpoint} endpoint`)
}
