/** Objects: `object-add` and its kind. */
import { loadKeyringSecret, loadSecret } from '../../block/secrets.ts'
import { ThrottleGroup } from '../../block/throttle-group.ts'
import { limitNames } from '../../block/throttle-limits.ts'
import { parseThrottleGroup } from '../../block/throttle-options.ts'
import { makeTlsObject } from '../../block/tls-objects.ts'
import { invalid } from '../../errors.ts'
import { command } from '../command.ts'
import type { MadeObject } from '../objects.ts'
import { EventLoopSettings } from '../qom/event-loop.ts'
import { notWritable, StoredValues } from '../qom/property-values.ts'
import { ThrottleProperties } from '../qom/throttle-properties.ts'
import { throttleLimits } from '../schema/throttle-limits.ts'
import { absentObjectTypes, tlsObjectTypes } from '../schema/tls-object-types.ts'
import {
  bool,
  enumeration,
  int,
  int32,
  object,
  optional,
  required,
  str,
  union,
  type Value,
} from '../schema/types.ts'
import type { StorageDaemon } from '../storage-daemon.ts'

const loaded = optional(bool, 'Refused, as in QEMU: an object is always loaded.', ['deprecated'])
const secretNotation = {
  format: optional(enumeration('QCryptoSecretFormat', ['raw', 'base64']), 'How it is written.'),
  keyid: optional(str, 'The secret that this one is enciphered with, by AES-256-CBC.'),
  iv: optional(str, 'Its initialisation vector, as Base64; required with `keyid`.'),
}

const secretOptions = object('SecretProperties', {
  loaded,
  data: optional(str, 'The secret itself; visible to whoever sees the command line.'),
  file: optional(str, 'A file that holds it.'),
  ...secretNotation,
})

const keyringOptions = object('SecretKeyringProperties', {
  loaded,
  serial: required(int32, "The key's number in the kernel's key rings."),
  ...secretNotation,
})

const hint = optional(int, 'Of no effect.')
const mainLoopOptions = object('MainLoopProperties', {
  'aio-max-batch': hint,
  'thread-pool-min': hint,
  'thread-pool-max': hint,
})
const iothreadOptions = object('IothreadProperties', {
  'aio-max-batch': hint,
  'thread-pool-min': hint,
  'thread-pool-max': hint,
  'poll-max-ns': hint,
  'poll-grow': hint,
  'poll-shrink': hint,
})

const unstableLimit = optional(int, 'The same as a property of its own.', ['unstable'])
const throttleGroupOptions = object('ThrottleGroupProperties', {
  limits: optional(throttleLimits, 'What the group is limited to.'),
  ...Object.fromEntries(limitNames.map((name) => [`x-${name}`, unstableLimit])),
})

const objectType = enumeration('ObjectType', [
  'authz-list',
  'authz-list-file',
  'authz-listfile',
  'authz-pam',
  'authz-simple',
  'iothread',
  'main-loop',
  'secret',
  'secret_keyring',
  'throttle-group',
  'tls-creds-anon',
  'tls-creds-psk',
  'tls-creds-x509',
])

/** What `qom-type` may be. */
export const creatableTypes: readonly string[] = objectType.values

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
    secret_keyring: keyringOptions,
    iothread: iothreadOptions,
    'main-loop': mainLoopOptions,
    'throttle-group': throttleGroupOptions,
    ...tlsObjectTypes,
    ...absentObjectTypes,
  }),
)

export async function addObject(
  daemon: StorageDaemon,
  options: Value<typeof objectOptions>,
): Promise<void> {
  daemon.objects.checkId(options.id)
  const { 'qom-type': type, id: _, ...given } = options
  const members = objectOptions.variants?.()[type].members ?? {}
  if ('loaded' in given) throw notWritable(type, 'loaded')
  // What is loaded is so when the object has its name; what is set, before.
  const isSet = ['throttle-group', 'iothread', 'main-loop'].includes(type)
  if (!isSet && !(type in absentObjectTypes)) daemon.objects.checkFree(options.id)
  const made = makeObjectInOrder(daemon, options)
  daemon.objects.add(options.id, { values: new StoredValues(type, members, given), ...made })
}

/** Limits that are set one by one are looked at as a whole once the object has its name. */
function makeObjectInOrder(
  daemon: StorageDaemon,
  options: Value<typeof objectOptions>,
): MadeObject {
  try {
    return makeObject(daemon, options)
  } catch (error) {
    const oneByOne = options['qom-type'] === 'throttle-group' && !('limits' in options)
    if (oneByOne && !/negative/.test(String(error))) daemon.objects.checkFree(options.id)
    throw error
  }
}

function makeObject(daemon: StorageDaemon, options: Value<typeof objectOptions>): MadeObject {
  switch (options['qom-type']) {
    case 'secret':
      return { type: 'secret', value: loadSecret(options, (id) => daemon.objects.secret(id)) }
    case 'secret_keyring': {
      const { 'qom-type': type, serial, ...notation } = options
      const value = loadKeyringSecret(serial, notation, (id) => daemon.objects.secret(id))
      return { type, value }
    }
    case 'throttle-group': {
      const { 'qom-type': type, id: _id, ...limits } = options
      const group = new ThrottleGroup(parseThrottleGroup(limits))
      return { type, group, values: new ThrottleProperties(group) }
    }
    case 'iothread':
    case 'main-loop': {
      const { 'qom-type': type, id: _id, ...settings } = options
      if (type === 'main-loop' && daemon.objects.hasMainLoop) {
        throw invalid('only one main-loop instance allowed')
      }
      return { type, values: new EventLoopSettings(settings) }
    }
    case 'authz-listfile':
    case 'authz-pam':
      throw invalid(`invalid object type: ${options['qom-type']}`)
    default: {
      const { 'qom-type': type, id: _id, ...given } = options
      return { type, tls: makeTlsObject(type, given, (id) => daemon.objects.secret(id)) }
    }
  }
}

export const objectCommands = [
  command({
    name: 'object-add',
    topic: 'Objects',
    doc:
      'Adds an object. A `secret` holds a key or password, a `tls-creds-…` what the NBD server or a ' +
      'client of another shows and trusts, an `authz-…` who may come in, a `throttle-group` limits that nodes share; an `iothread` and a `main-loop` are accepted ' +
      'since command lines name them, but there is one event loop with a pool of threads behind it.',
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
]
