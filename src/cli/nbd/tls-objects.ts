/** `--object tls-creds-x509,…` and `--tls-creds`: certificates in the files that QEMU looks for. */
import { OptionReader } from '../../block/options.ts'
import type { TlsCredentials } from '../../export/nbd/tls.ts'
import { readTlsCredentials } from '../../export/nbd/tls-files.ts'
import type { NamedIo } from '../command.ts'
import { parseObjectOption, unknownType } from '../object-option.ts'
import type { NbdArguments } from './arguments.ts'
import { NbdFailure } from './failure.ts'

/**
 * Makes the objects that the command line names; secrets go to those of `io`. The credentials that
 * are to be used, if any: throws when there are none of that name.
 */
export function credentialsOf(
  { objects, tlsCreds }: NbdArguments,
  io: NamedIo,
): TlsCredentials | undefined {
  const known = parseObjects(objects, io)
  if (tlsCreds === undefined) return undefined
  const found = known.get(tlsCreds)
  if (found) return found
  throw new NbdFailure(`Failed to get TLS creds: No TLS credentials with id '${tlsCreds}'`)
}

/** Credentials by id. Throws when an object is none that we know, or its files cannot be read. */
function parseObjects(
  objects: readonly string[],
  io: NamedIo,
): ReadonlyMap<string, TlsCredentials> {
  const found = new Map<string, TlsCredentials>()
  for (const text of objects) {
    const { type, options } = parseObjectOption(text)
    if (type === 'secret') io.secrets?.add(options)
    else if (type === 'throttle-group') io.throttleGroups?.add(options)
    else if (type === 'tls-creds-x509') found.set(...parseCredentials(options))
    else throw unknownType(type)
  }
  return found
}

function parseCredentials(options: Readonly<Record<string, unknown>>): [string, TlsCredentials] {
  const reader = new OptionReader(options)
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
