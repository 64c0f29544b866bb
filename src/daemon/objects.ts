/** Objects that nodes, servers and exports refer to by id: secrets, credentials, I/O threads. */
import { readFile } from 'node:fs/promises'
import { BlockError, errnoOf, strerror } from '../errors.ts'
import type { TlsCredentials } from '../export/nbd/tls.ts'

export interface SecretOptions {
  readonly data?: string
  readonly file?: string
  readonly format?: 'raw' | 'base64'
}

export type DaemonObject =
  | { readonly type: 'secret'; readonly value: Uint8Array }
  | { readonly type: 'tls-creds-x509'; readonly credentials: TlsCredentials }
  /** Nothing but a name: there is one event loop, and a pool of threads behind it. */
  | { readonly type: 'iothread' }

/** Bytes of the largest secret; a key file, not a disk. */
const maxSecretLength = 1024 * 1024

export class ObjectTable {
  readonly #objects = new Map<string, DaemonObject>()

  get(id: string): DaemonObject | undefined {
    return this.#objects.get(id)
  }

  /** The credentials of that name. */
  tlsCredentials(id: string): TlsCredentials {
    const found = this.#objects.get(id)
    if (!found) throw invalid(`No TLS credentials with id '${id}'`)
    if (found.type === 'tls-creds-x509') return found.credentials
    throw invalid(`Object with id '${id}' is not TLS credentials`)
  }

  /** Refuses an id that is malformed or taken. */
  add(id: string, object: DaemonObject): void {
    if (!/^[A-Za-z][A-Za-z0-9._-]*$/.test(id)) {
      throw invalid(`Parameter 'id' expects an identifier`)
    }
    if (this.#objects.has(id)) {
      throw invalid(`attempt to add duplicate property '${id}' to object (type 'container')`)
    }
    this.#objects.set(id, object)
  }

  remove(id: string): void {
    if (!this.#objects.delete(id)) throw invalid(`object '${id}' not found`)
  }
}

/** Reads what a secret is; plain text is taken as it is, without a line's end cut off. */
export async function loadSecret({ data, file, format }: SecretOptions): Promise<Uint8Array> {
  if (data !== undefined && file !== undefined) {
    throw invalid(`'file' and 'data' are mutually exclusive`)
  }
  if (data === undefined && file === undefined) {
    throw invalid(`Either 'file' or 'data' must be provided`)
  }
  const bytes = file === undefined ? Buffer.from(data as string) : await readSecret(file)
  return format === 'base64' ? decodeBase64(bytes.toString('latin1')) : bytes
}

async function readSecret(file: string): Promise<Buffer> {
  try {
    const bytes = await readFile(file)
    if (bytes.length <= maxSecretLength) return bytes
  } catch (error) {
    const reason = strerror(errnoOf(error) ?? 'EIO')
    throw invalid(`Unable to read ${file}: Failed to open file “${file}”: ${reason}`)
  }
  throw invalid(`Unable to read ${file}: a secret has at most ${maxSecretLength} bytes`)
}

function decodeBase64(text: string): Uint8Array {
  const clean = text.replaceAll(/\s/g, '')
  if (/^[A-Za-z0-9+/]*={0,2}$/.test(clean) && clean.length % 4 === 0) {
    return Buffer.from(clean, 'base64')
  }
  throw invalid('Base64 data contains invalid characters')
}

function invalid(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { errno: 'EINVAL' })
}
