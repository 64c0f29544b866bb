/** `--object tls-creds-x509,…` and `--tls-creds`: certificates in the files that QEMU looks for. */
import { OptionReader } from '../../block/options.ts'
import type { TlsCredentials } from '../../export/nbd/tls.ts'
import { readTlsCredentials } from '../../export/nbd/tls-files.ts'
import { parseKeyval } from '../keyval.ts'
import type { NbdArguments } from './arguments.ts'
import { NbdFailure } from './failure.ts'

/** The credentials that are to be used, if any. Throws when there are none of that name. */
export function credentialsOf({ objects, tlsCreds }: NbdArguments): TlsCredentials | undefined {
  const known = parseObjects(objects)
  if (tlsCreds === undefined) return undefined
  const found = known.get(tlsCreds)
  if (found) return found
  throw new NbdFailure(`Failed to get TLS creds: No TLS credentials with id '${tlsCreds}'`)
}

/** Credentials by id. Throws when an object is none that we know, or its files cannot be read. */
function parseObjects(objects: readonly string[]): ReadonlyMap<string, TlsCredentials> {
  return new Map(objects.map(parseObject))
}

function parseObject(text: string): [string, TlsCredentials] {
  const reader = new OptionReader(parseKeyval(text, 'qom-type'))
  const type = reader.requiredString('qom-type')
  if (type !== 'tls-creds-x509') throw unknownType(type)
  const id = reader.requiredString('id')
  const endpoint = reader.oneOf('endpoint', ['client', 'server']) ?? 'client'
  const directory = reader.string('dir')
  const verifyPeer = reader.boolean('verify-peer') ?? true
  for (const name of ['passwordid', 'priority', 'sanity-check']) {
    if (reader.take(name) !== undefined) {
      throw new NbdFailure(`'${name}' of tls-creds-x509 is not supported`)
    }
  }
  reader.finish()
  if (directory === undefined) throw new NbdFailure("Missing 'dir' property value")
  if (endpoint === 'client')
    throw new NbdFailure('Expecting TLS credentials with a server endpoint')
  return [id, readTlsCredentials(directory, verifyPeer)]
}

/** Types of QEMU's objects that a user may expect to work. */
const knownToQemu = [
  'secret',
  'secret_keyring',
  'tls-creds-psk',
  'tls-creds-anon',
  'tls-cipher-suites',
  'authz-simple',
  'authz-list',
  'authz-listfile',
  'authz-pam',
  'throttle-group',
  'iothread',
  'main-loop',
]

function unknownType(type: string): NbdFailure {
  return knownToQemu.includes(type)
    ? new NbdFailure(`objects of type '${type}' are not supported`)
    : new NbdFailure(`Parameter 'qom-type' does not accept value '${type}'`)
}
