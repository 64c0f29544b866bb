/** Credentials and authorizations as people write them: `--object tls-creds-x509,…`, `object-add`. */
import { type BlockError, invalid } from '../errors.ts'
import type { Authorise } from '../tls/accept.ts'
import { type Authorization, listAuthorization, simpleAuthorization } from '../tls/authorization.ts'
import { checkEndpoint, isTlsCredentials, type TlsCredentials } from '../tls/credentials.ts'
import { loadAnonymous, loadPsk } from '../tls/load-keys.ts'
import { loadX509 } from '../tls/load-x509.ts'
import { parsePriority } from '../tls/priority.ts'
import type { Endpoint } from '../tls/sanity-check.ts'
import {
  FileAuthorization,
  type Notation,
  parseAuthorizationList,
} from './authorization-options.ts'
import { OptionReader } from './options.ts'
import { badIdentifier, duplicate, isIdentifier } from './secrets.ts'

export type TlsObject = TlsCredentials | Authorization

/** Where the passphrase of a private key is. */
type SecretOf = (id: string) => Uint8Array

type Maker = (reader: OptionReader, secretOf: SecretOf, notation: Notation) => TlsObject

const makers = {
  'tls-creds-x509': makeX509,
  'tls-creds-psk': makePsk,
  'tls-creds-anon': makeAnonymous,
  'authz-simple': makeSimple,
  'authz-list': makeList,
  'authz-list-file': makeListFile,
} as const satisfies Readonly<Record<string, Maker>>

export type TlsObjectType = keyof typeof makers

export function isTlsObjectType(type: string): type is TlsObjectType {
  return Object.hasOwn(makers, type)
}

/** Options without type and id. Files are read at once; throws in QEMU's words. */
export function makeTlsObject(
  type: TlsObjectType,
  options: Readonly<Record<string, unknown>>,
  secretOf: SecretOf,
  notation: Notation = 'json',
): TlsObject {
  const make: Maker = makers[type]
  return make(new OptionReader(options), secretOf, notation)
}

function commonOf(reader: OptionReader) {
  return {
    endpoint: reader.oneOf('endpoint', ['client', 'server']) ?? ('client' as const),
    directory: reader.string('dir'),
    verifyPeer: reader.boolean('verify-peer'),
    session: parsePriority(reader.string('priority')),
  }
}

function makeX509(reader: OptionReader, secretOf: SecretOf): TlsCredentials {
  const common = commonOf(reader)
  const sanityCheck = reader.boolean('sanity-check')
  const passwordId = reader.string('passwordid')
  reader.finish()
  const directory = needed(common.directory)
  const passphrase =
    passwordId === undefined ? undefined : () => Buffer.from(secretOf(passwordId)).toString('utf8')
  return loadX509({ ...common, directory, sanityCheck, passphrase })
}

function makePsk(reader: OptionReader): TlsCredentials {
  const common = commonOf(reader)
  const username = reader.string('username')
  reader.finish()
  if (common.endpoint === 'server' && username !== undefined) {
    throw invalid('username should not be set when endpoint=server')
  }
  return loadPsk({ ...common, directory: needed(common.directory), username })
}

function makeAnonymous(reader: OptionReader): TlsCredentials {
  const common = commonOf(reader)
  reader.finish()
  return loadAnonymous(common)
}

function makeSimple(reader: OptionReader): Authorization {
  const identity = reader.requiredString('identity')
  reader.finish()
  return simpleAuthorization(identity)
}

function makeList(reader: OptionReader, _: SecretOf, notation: Notation): Authorization {
  const list = parseAuthorizationList(reader, notation)
  reader.finish()
  return listAuthorization(list)
}

function makeListFile(reader: OptionReader): Authorization {
  const file = reader.requiredString('filename')
  const refresh = reader.boolean('refresh') ?? true
  reader.finish()
  return new FileAuthorization(file, refresh)
}

function needed(directory: string | undefined): string {
  if (directory === undefined) throw invalid("Missing 'dir' property value")
  return directory
}

/** The credentials that `found` is, for that side; `found` is what has the id, if anything. */
export function credentialsFor(found: unknown, id: string, endpoint: Endpoint): TlsCredentials {
  if (found === undefined) throw noCredentials(id)
  if (!isTlsCredentials(found)) throw invalid(`Object with id '${id}' is not TLS credentials`)
  return checkEndpoint(found, endpoint)
}

export function noCredentials(id: string): BlockError {
  return invalid(`No TLS credentials with id '${id}'`)
}

/** Asks the object of that id, as it is when a client comes, like QEMU. */
export function authoriseBy(find: (id: string) => unknown, id: string): Authorise {
  return (identity) => {
    const found = find(id)
    if (found === undefined) throw invalid(`Cannot find QAuthZ object ID ${id}`)
    if (!isAuthorization(found)) throw invalid(`Object '${id}' is not a QAuthZ subclass`)
    return found.allows(identity)
  }
}

function isAuthorization(value: unknown): value is Authorization {
  return typeof value === 'object' && value !== null && 'allows' in value
}

/** Those that a command line has made. */
export class TlsObjectTable {
  readonly #objects = new Map<string, TlsObject>()
  readonly #others: (id: string) => unknown

  /** `others` finds objects of other kinds, so that they are not taken for absent. */
  constructor(others: (id: string) => unknown) {
    this.#others = others
  }

  add(
    type: TlsObjectType,
    { id, ...options }: Readonly<Record<string, unknown>>,
    secretOf: SecretOf,
    notation: Notation,
  ): void {
    if (id === undefined) throw invalid("Parameter 'id' is missing")
    if (typeof id !== 'string' || !isIdentifier(id)) throw badIdentifier()
    const passphraseOf = (name: string) => {
      if (this.#objects.has(name)) throw invalid(`Object with id '${name}' is not a secret`)
      return secretOf(name)
    }
    const made = makeTlsObject(type, options, passphraseOf, notation)
    if (this.find(id) !== undefined) throw duplicate(id)
    this.#objects.set(id, made)
  }

  find(id: string): unknown {
    return this.#objects.get(id) ?? this.#others(id)
  }
}
