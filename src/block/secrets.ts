/**
 * Secrets: passwords and keys that are referred to by id, so that they are neither options of an
 * image nor seen by whoever lists processes. As QEMU's objects of type `secret`, they can be
 * enciphered by another one (AES-256-CBC, PKCS #7), which is then the only one to be kept safe.
 */
import { isUtf8 } from 'node:buffer'
import { readFileSync } from 'node:fs'
import { BlockError, errnoOf, invalid, strerror } from '../errors.ts'
import { sys } from '../sys/current.ts'
import type { SecretSource } from './driver.ts'
import { OptionReader } from './options.ts'

/** How a secret is written down. */
export interface SecretNotation {
  /** How it is written; `raw` unless given. */
  readonly format?: 'raw' | 'base64'
  /** The secret that this one is enciphered with. */
  readonly keyid?: string
  /** Base64. */
  readonly iv?: string
}

export interface SecretOptions extends SecretNotation {
  readonly data?: string
  /** Its name may be `/dev/fd/3`. */
  readonly file?: string
}

/** Bytes of the largest secret; a key file, not a disk. */
const maxSecretLength = 1024 * 1024
/** The kernel's limit, for any type of key. */
const maxKeyLength = 1024 * 1024 - 1

const keyLength = 32
const blockLength = 16

export class SecretTable {
  readonly #secrets = new Map<string, Uint8Array>()

  find(id: string): Uint8Array | undefined {
    return this.#secrets.get(id)
  }

  /** Throws `INVALID_ARGUMENT` when there is none of that id. */
  get(id: string): Uint8Array {
    const found = this.#secrets.get(id)
    if (found) return found
    throw noSecret(id)
  }

  /** `--object secret,id=…`, its type taken off. Files are read at once. */
  add(options: Readonly<Record<string, unknown>>): void {
    const reader = new OptionReader(options)
    const secret = { data: reader.string('data'), file: reader.string('file') }
    this.#add(reader, (notation) => loadSecret({ ...secret, ...notation }, (key) => this.get(key)))
  }

  /** `--object secret_keyring,id=…`, its type taken off. */
  addFromKeyring(options: Readonly<Record<string, unknown>>): void {
    const reader = new OptionReader(options)
    const serial = reader.integer('serial')
    if (serial === undefined) throw invalid("Parameter 'serial' is missing")
    this.#add(reader, (notation) => loadKeyringSecret(serial, notation, (key) => this.get(key)))
  }

  #add(reader: OptionReader, load: (notation: SecretNotation) => Uint8Array): void {
    const id = reader.requiredString('id')
    const notation: SecretNotation = {
      format: reader.oneOf('format', ['raw', 'base64']),
      keyid: reader.string('keyid'),
      iv: reader.string('iv'),
    }
    reader.finish()
    if (!isIdentifier(id)) throw badIdentifier()
    if (this.#secrets.has(id)) throw duplicate(id)
    this.#secrets.set(id, load(notation))
  }
}

export function isIdentifier(id: string): boolean {
  return /^[A-Za-z][A-Za-z0-9._-]*$/.test(id)
}

export function badIdentifier(): BlockError {
  return invalid(
    "Parameter 'id' expects an identifier\n" +
      "Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.",
  )
}

export function duplicate(id: string): BlockError {
  return invalid(`attempt to add duplicate property '${id}' to object (type 'container')`)
}

/** The password of that id; rejects with QEMU's text where there is none, and where it is no text. */
export async function findSecret(
  secrets: SecretSource | undefined,
  id: string,
): Promise<Uint8Array> {
  if (!secrets) throw noSecret(id)
  const password = await secrets(id)
  // QEMU takes no other, so nobody there could open what such a one was given to.
  if (!isUtf8(password)) throw invalid(`Data from secret ${id} is not valid UTF-8`)
  return password
}

export function noSecret(id: string): BlockError {
  return invalid(`No secret with id '${id}'`)
}

/** What a secret is; plain text is taken as it is, without a line's end cut off. */
export function loadSecret(options: SecretOptions, lookUp: (id: string) => Uint8Array): Uint8Array {
  const { data, file } = options
  if (data !== undefined && file !== undefined) {
    throw invalid(`'file' and 'data' are mutually exclusive`)
  }
  if (data === undefined && file === undefined) {
    throw invalid(`Either 'file' or 'data' must be provided`)
  }
  const stored = file === undefined ? Buffer.from(data as string) : readSecret(file)
  return decoded(options, stored, lookUp)
}

/** What a key of the kernel's key rings is: QEMU's `secret_keyring`. */
export function loadKeyringSecret(
  serial: number,
  options: SecretNotation,
  lookUp: (id: string) => Uint8Array,
): Uint8Array {
  const name = (serial < 0 ? serial + 2 ** 32 : serial).toString(16).padStart(8, '0')
  const what = `Unable to read serial key ${name}`
  if (!sys().supported.keyring) {
    throw new BlockError('UNSUPPORTED', `${what}: this system offers no key rings`, {
      errno: 'ENOTSUP',
    })
  }
  let stored: Uint8Array
  try {
    stored = sys().readKey(serial, maxKeyLength)
  } catch (error) {
    throw invalid(`${what}: ${strerror(errnoOf(error) ?? 'EIO')}`)
  }
  return decoded(options, Buffer.from(stored), lookUp)
}

function decoded(
  options: SecretNotation,
  stored: Buffer,
  lookUp: (id: string) => Uint8Array,
): Uint8Array {
  if (options.keyid !== undefined) return decipher(options, stored, lookUp(options.keyid))
  return options.format === 'base64' ? decodeBase64(stored.toString('latin1')) : stored
}

function decipher({ format, iv }: SecretNotation, stored: Buffer, key: Uint8Array): Uint8Array {
  if (key.length !== keyLength) throw invalid(`Key should be ${keyLength} bytes in length`)
  if (iv === undefined) throw invalid('IV is required to decrypt secret')
  const vector = decodeBase64(iv)
  if (vector.length !== blockLength) {
    throw invalid(`IV should be ${blockLength} bytes in length not ${vector.length}`)
  }
  const cipherText = format === 'base64' ? decodeBase64(stored.toString('latin1')) : stored
  if (cipherText.length % blockLength !== 0) {
    throw invalid(`Length ${cipherText.length} must be a multiple of block size ${blockLength}`)
  }
  // Loading the module takes as long as everything else here.
  const { createDecipheriv } = process.getBuiltinModule('node:crypto')
  const cipher = createDecipheriv('aes-256-cbc', key, vector).setAutoPadding(false)
  const padded = cipher.update(cipherText)
  const padding = padded.at(-1) ?? 0
  if (padding === 0 || padding > blockLength || padding > padded.length) {
    throw invalid(`Incorrect number of padding bytes (${padding}) found on decrypted data`)
  }
  return padded.subarray(0, padded.length - padding)
}

function readSecret(file: string): Buffer {
  try {
    const bytes = readFileSync(file)
    if (bytes.length <= maxSecretLength) return bytes
  } catch (error) {
    const reason = strerror(errnoOf(error) ?? 'EIO')
    throw invalid(`Unable to read ${file}: Failed to open file “${file}”: ${reason}`)
  }
  throw invalid(`Unable to read ${file}: a secret has at most ${maxSecretLength} bytes`)
}

/** Padding is not insisted on. */
function decodeBase64(text: string): Uint8Array {
  const clean = text.replaceAll(/\s/g, '')
  if (/^[A-Za-z0-9+/]*=*$/.test(clean)) return Buffer.from(clean, 'base64')
  throw invalid('Base64 data contains invalid characters')
}
