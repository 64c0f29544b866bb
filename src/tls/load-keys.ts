/** Credentials without certificates: keys that both sides know, and nothing at all. */
import { accessSync } from 'node:fs'
import path from 'node:path'
import { invalid, systemError } from '../errors.ts'
import type { AnonymousCredentials, PskCredentials, TlsCredentials } from './credentials.ts'
import { readOptionalDh } from './load-x509.ts'
import { type SessionSettings, usualSession } from './priority.ts'
import { PskFile } from './psk-file.ts'
import type { Endpoint } from './sanity-check.ts'
import { contextOptions } from './session.ts'

export interface PskOptions {
  /** Folder with `keys.psk`. */
  readonly directory: string
  readonly endpoint: Endpoint
  readonly verifyPeer?: boolean
  /** Of a client; `qemu` unless given. */
  readonly username?: string
  /** The usual one unless given. */
  readonly session?: SessionSettings
}

export function loadPsk({ directory, endpoint, ...options }: PskOptions): PskCredentials {
  const file = `${directory}/keys.psk`
  try {
    accessSync(file)
  } catch (error) {
    throw systemError(error, `Unable to access credentials ${file}`, { path: file })
  }
  const common = {
    kind: 'psk' as const,
    endpoint,
    verifyPeer: options.verifyPeer ?? true,
    session: options.session ?? usualSession,
  }
  // A server reads it for each client, perhaps from another folder by then.
  if (endpoint === 'server') return checked({ ...common, keys: new PskFile(path.resolve(file)) })
  const keys = new PskFile(file)
  const name = options.username ?? 'qemu'
  const key = keys.keyOf(name)
  if (key) return checked({ ...common, keys, user: { name, key } })
  throw invalid(`Username ${name} not found in PSK file ${file}`)
}

export interface AnonymousOptions {
  /** Folder with `dh-params.pem`, which need not be there. */
  readonly directory?: string
  readonly endpoint: Endpoint
  readonly verifyPeer?: boolean
  /** The usual one unless given. */
  readonly session?: SessionSettings
}

export function loadAnonymous(options: AnonymousOptions): AnonymousCredentials {
  const { directory, endpoint, verifyPeer = true, session = usualSession } = options
  const dhParameters =
    endpoint === 'server' && directory !== undefined
      ? readOptionalDh(`${directory}/dh-params.pem`)
      : undefined
  return checked({ kind: 'anon', endpoint, verifyPeer, session, dhParameters })
}

/** What no session could be made with is refused now, and not when a client comes. */
function checked<T extends TlsCredentials>(credentials: T): T {
  contextOptions(credentials)
  return credentials
}
