/** Objects: `object-add` and its kind. */
import { loadSecret } from '../../block/secrets.ts'
import { ThrottleGroup } from '../../block/throttle-group.ts'
import { limitNames } from '../../block/throttle-limits.ts'
import { parseThrottleGroup } from '../../block/throttle-options.ts'
import { BlockError } from '../../errors.ts'
import { readTlsCredentials } from '../../export/nbd/tls-files.ts'
import { command } from '../command.ts'
import type { DaemonObject } from '../objects.ts'
import {
  bool,
  enumeration,
  int,
  list,
  object,
  optional,
  required,
  str,
  union,
  type Value,
} from '../schema/types.ts'
import type { StorageDaemon } from '../storage-daemon.ts'

const secretOptions = object('SecretProperties', {
  data: optional(str, 'The secret itself; visible to whoever sees the command line.'),
  file: optional(str, 'A file that holds it.'),
  format: optional(enumeration('QCryptoSecretFormat', ['raw', 'base64']), 'How it is written.'),
  keyid: optional(str, 'The secret that this one is enciphered with, by AES-256-CBC.'),
  iv: optional(str, 'Its initialisation vector, as Base64; required with `keyid`.'),
})

const tlsOptions = object('TlsCredsX509Properties', {
  dir: optional(str, 'Folder with ca-cert.pem, server-cert.pem and server-key.pem; required.'),
  endpoint: optional(enumeration('QCryptoTLSCredsEndpoint', ['client', 'server']), '`server`.'),
  'verify-peer': optional(bool, 'Whether clients need a certificate; true unless given.'),
  'sanity-check': optional(bool, 'Of no effect: certificates are judged when they are used.'),
})

const hint = optional(int, 'Of no effect.')
const iothreadOptions = object('IothreadProperties', {
  'aio-max-batch': hint,
  'thread-pool-min': hint,
  'thread-pool-max': hint,
  'poll-max-ns': hint,
  'poll-grow': hint,
  'poll-shrink': hint,
})

const limit = optional(int, 'See `throttle` in the documentation of drivers.')
const unstableLimit = optional(int, 'The same as a property of its own.', ['unstable'])
const throttleLimits = object(
  'ThrottleLimits',
  Object.fromEntries(limitNames.map((name) => [name, limit])),
)
const throttleGroupOptions = object('ThrottleGroupProperties', {
  limits: optional(throttleLimits, 'What the group is limited to.'),
  ...Object.fromEntries(limitNames.map((name) => [`x-${name}`, unstableLimit])),
})

const objectType = enumeration('ObjectType', [
  'iothread',
  'secret',
  'throttle-group',
  'tls-creds-x509',
])

/** The options of `object-add` and of `--object`. */
export const objectOptions = union(
  'ObjectOptions',
  {
    'qom-type': required(objectType, 'Kind of object.'),
    id: required(str, 'Name to refer to it.'),
  },
  'qom-type',
  () => ({
    secret: secretOptions,
    iothread: iothreadOptions,
    'throttle-group': throttleGroupOptions,
    'tls-creds-x509': tlsOptions,
  }),
)

export async function addObject(
  daemon: StorageDaemon,
  options: Value<typeof objectOptions>,
): Promise<void> {
  daemon.objects.add(options.id, makeObject(daemon, options))
}

function makeObject(daemon: StorageDaemon, options: Value<typeof objectOptions>): DaemonObject {
  switch (options['qom-type']) {
    case 'secret':
      return { type: 'secret', value: loadSecret(options, (id) => daemon.objects.secret(id)) }
    case 'throttle-group': {
      const { 'qom-type': _type, id: _id, ...limits } = options
      return { type: 'throttle-group', group: new ThrottleGroup(parseThrottleGroup(limits)) }
    }
    case 'iothread':
      return { type: 'iothread' }
    case 'tls-creds-x509': {
      const { dir, endpoint = 'client', 'verify-peer': verifyPeer = true } = options
      if (dir === undefined) throw invalid("Missing 'dir' property value")
      if (endpoint === 'client') {
        throw new BlockError('UNSUPPORTED', "tls-creds-x509: only 'endpoint=server' is supported")
      }
      return { type: 'tls-creds-x509', credentials: readTlsCredentials(dir, verifyPeer) }
    }
  }
}

function invalid(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { errno: 'EINVAL' })
}

/** What there is to be created, and what each is a kind of, as in QEMU. */
const parents = {
  iothread: 'event-loop-base',
  secret: 'secret_common',
  'throttle-group': 'object',
  'tls-creds-x509': 'tls-creds',
} as const

const typeInfo = object('ObjectTypeInfo', {
  name: required(str, 'Name of the type.'),
  abstract: optional(bool, 'Whether there can be no objects of it.'),
  parent: optional(str, 'The type it is a kind of.'),
})

export const objectCommands = [
  command({
    name: 'object-add',
    topic: 'Objects',
    doc:
      'Adds an object. A `secret` holds a key or password, a `tls-creds-x509` the ' +
      'certificates of the NBD server, a `throttle-group` limits that nodes share; an `iothread` is accepted since ' +
      'command lines name them, but there is one event loop with a pool of threads behind it.',
    args: objectOptions,
    run: (options, { daemon }) => addObject(daemon, options),
  }),
  command({
    name: 'object-del',
    topic: 'Objects',
    doc: 'Removes an object.',
    args: object('ObjectDelArg', { id: required(str, 'The object.') }),
    run: ({ id }, { daemon }) => daemon.objects.remove(id),
  }),
  command({
    name: 'qom-list-types',
    topic: 'Objects',
    doc: 'Lists the types of objects that can be added.',
    args: object('QomListTypesArg', {
      implements: optional(str, 'Only types that are of this kind; `user-creatable` is all.'),
      abstract: optional(bool, 'Of no effect: none of the types is abstract.'),
    }),
    returns: list(typeInfo),
    concurrent: true,
    run: ({ implements: kind = 'object' }) =>
      Object.entries(parents)
        .filter(([name, parent]) => ['object', 'user-creatable', name, parent].includes(kind))
        .map(([name, parent]) => ({ name, parent })),
  }),
]
