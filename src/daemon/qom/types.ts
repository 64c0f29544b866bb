/**
 * The types of QEMU's object model that its storage daemon has: what each is a kind of, and the
 * properties that its objects have. The table is about names; which objects can really be made,
 * the command `object-add` says.
 */

export interface QomType {
  readonly name: string
  /** Absent from the two roots. */
  readonly parent?: string
  /** There are no objects of it, only of its kinds. */
  readonly abstract?: boolean
  /** Clients may make objects of its kinds, or of itself, by `object-add`. */
  readonly userCreatable?: boolean
  /** Types of its own properties by name, without those of the parent. */
  readonly properties?: Readonly<Record<string, string>>
}

const creatable = true
const abstract = true
const kinds = (parent: string, ...names: string[]): QomType[] =>
  names.map((name) => ({ name, parent }))

const limitProperties = ['iops', 'bps'].flatMap((kind) =>
  ['total', 'read', 'write'].flatMap((what) =>
    ['', '-max', '-max-length'].map((part) => [`x-${kind}-${what}${part}`, 'int']),
  ),
)

const all: readonly QomType[] = [
  { name: 'object', abstract, properties: { type: 'string' } },
  { name: 'container', parent: 'object' },
  { name: 'interface', abstract },
  { name: 'user-creatable', parent: 'interface', abstract, userCreatable: creatable },
  { name: 'fw_cfg-data-generator', parent: 'interface', abstract },

  {
    name: 'event-loop-base',
    parent: 'object',
    abstract,
    userCreatable: creatable,
    properties: { 'thread-pool-min': 'int', 'aio-max-batch': 'int', 'thread-pool-max': 'int' },
  },
  { name: 'main-loop', parent: 'event-loop-base' },
  {
    name: 'iothread',
    parent: 'event-loop-base',
    properties: { 'poll-max-ns': 'int', 'poll-grow': 'int', 'poll-shrink': 'int' },
  },
  {
    name: 'thread-context',
    parent: 'object',
    userCreatable: creatable,
    properties: { 'thread-id': 'int', 'node-affinity': 'int', 'cpu-affinity': 'int' },
  },

  {
    name: 'secret_common',
    parent: 'object',
    abstract,
    userCreatable: creatable,
    properties: { iv: 'string', keyid: 'string', loaded: 'bool', format: 'QCryptoSecretFormat' },
  },
  { name: 'secret', parent: 'secret_common', properties: { file: 'string', data: 'string' } },
  { name: 'secret_keyring', parent: 'secret_common', properties: { serial: 'int32_t' } },

  {
    name: 'throttle-group',
    parent: 'object',
    userCreatable: creatable,
    properties: {
      limits: 'ThrottleLimits',
      'x-iops-size': 'int',
      ...Object.fromEntries(limitProperties),
    },
  },

  {
    name: 'tls-creds',
    parent: 'object',
    abstract,
    properties: {
      endpoint: 'QCryptoTLSCredsEndpoint',
      dir: 'string',
      'verify-peer': 'bool',
      priority: 'string',
    },
  },
  {
    name: 'tls-creds-anon',
    parent: 'tls-creds',
    userCreatable: creatable,
    properties: { loaded: 'bool' },
  },
  {
    name: 'tls-creds-psk',
    parent: 'tls-creds',
    userCreatable: creatable,
    properties: { username: 'string', loaded: 'bool' },
  },
  {
    name: 'tls-creds-x509',
    parent: 'tls-creds',
    userCreatable: creatable,
    properties: { 'sanity-check': 'bool', passwordid: 'string', loaded: 'bool' },
  },
  { name: 'tls-cipher-suites', parent: 'tls-creds', userCreatable: creatable },

  { name: 'authz', parent: 'object', abstract },
  {
    name: 'authz-simple',
    parent: 'authz',
    userCreatable: creatable,
    properties: { identity: 'string' },
  },
  {
    name: 'authz-list',
    parent: 'authz',
    userCreatable: creatable,
    properties: { policy: 'QAuthZListPolicy', rules: 'QAuthZListRule' },
  },
  {
    name: 'authz-list-file',
    parent: 'authz',
    userCreatable: creatable,
    properties: { filename: 'string', refresh: 'bool' },
  },

  { name: 'pr-manager', parent: 'object', abstract, userCreatable: creatable },
  { name: 'pr-manager-helper', parent: 'pr-manager', properties: { path: 'string' } },

  { name: 'chardev', parent: 'object', abstract },
  { name: 'chardev-fd', parent: 'chardev', abstract },
  ...kinds('chardev-fd', 'chardev-file', 'chardev-pipe', 'chardev-serial', 'chardev-stdio'),
  ...kinds('chardev', 'chardev-mux', 'chardev-null', 'chardev-parallel', 'chardev-pty'),
  ...kinds('chardev', 'chardev-ringbuf', 'chardev-udp'),
  { name: 'chardev-memory', parent: 'chardev-ringbuf' },
  {
    name: 'chardev-socket',
    parent: 'chardev',
    properties: { connected: 'bool', addr: 'SocketAddress' },
  },

  { name: 'qio-channel', parent: 'object', abstract },
  ...kinds('qio-channel', 'qio-channel-buffer', 'qio-channel-command', 'qio-channel-file'),
  ...kinds('qio-channel', 'qio-channel-null', 'qio-channel-socket', 'qio-channel-tls'),
  ...kinds('qio-channel', 'qio-channel-websock'),
  ...kinds('object', 'qio-dns-resolver', 'qio-net-listener'),
]

export const qomTypes: ReadonlyMap<string, QomType> = new Map(all.map((each) => [each.name, each]))

/** Those that a type is a kind of, itself first. */
export function ancestry(name: string): QomType[] {
  const found = qomTypes.get(name)
  if (!found) return []
  return [found, ...(found.parent === undefined ? [] : ancestry(found.parent))]
}

/** Whether objects of type `name` are objects of type `kind` too. */
export function isKindOf(name: string, kind: string): boolean {
  return ancestry(name).some(
    (each) =>
      each.name === kind ||
      (each.userCreatable && ['user-creatable', 'interface'].includes(kind)) ||
      // Suites are offered to firmware, too, which has no part in this daemon.
      (each.name === 'tls-cipher-suites' && kind === 'fw_cfg-data-generator'),
  )
}

/** Types of an object's properties by name, those of its ancestors first. */
export function propertiesOf(name: string): ReadonlyMap<string, string> {
  const declared = ancestry(name).reverse()
  return new Map(declared.flatMap(({ properties = {} }) => Object.entries(properties)))
}
