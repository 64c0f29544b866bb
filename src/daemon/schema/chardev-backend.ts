/** `ChardevBackend`: what kinds of character devices QEMU has, and what each is told. */
import { socketAddressLegacy } from './socket-address.ts'
import {
  bool,
  enumeration,
  int,
  type Member,
  type ObjectType,
  object,
  optional,
  required,
  str,
  union,
  type Value,
} from './types.ts'

const common = {
  logfile: optional(str, 'A file that gets a copy of all that is written to the device.'),
  logappend: optional(bool, 'Keep what is in that file; it is emptied unless this is given.'),
}

/** QMP wraps the options of a backend in `data`. */
function wrapped<const M extends Readonly<Record<string, Member>>>(name: string, members: M) {
  const data = object(`Chardev${name}`, { ...common, ...members })
  return object(`Chardev${name}Wrapper`, { data: required(data, 'Its options.') })
}

const plain = wrapped('Common', {})
const device = required(str, 'Path of the device.')
const hostDevice = wrapped('Hostdev', { device })
const ring = wrapped('Ringbuf', {
  size: optional(int, 'Bytes that it holds, a power of two; 65536 unless given.'),
})

const variants = {
  file: wrapped('File', {
    in: optional(str, 'File to read from; nothing is read unless given.'),
    out: required(str, 'File to write to.'),
    append: optional(bool, 'Write behind what is in it; it is emptied unless this is given.'),
  }),
  serial: hostDevice,
  parallel: hostDevice,
  pipe: hostDevice,
  socket: wrapped('Socket', {
    addr: required(socketAddressLegacy, 'Where to listen, or what to connect to.'),
    'tls-creds': optional(str, 'Id of a `tls-creds-…` object: both ends speak TLS.'),
    'tls-authz': optional(str, 'Id of an `authz-…` object that says which clients may come in.'),
    server: optional(bool, 'Whether to listen; true unless given.'),
    wait: optional(bool, 'Go on when the first client is there; only for servers.'),
    nodelay: optional(bool, 'Send small pieces of data at once.'),
    telnet: optional(bool, 'Speak telnet to clients.'),
    tn3270: optional(bool, 'Speak telnet to clients, for a terminal of type 3270.'),
    websocket: optional(bool, 'Clients speak the WebSocket protocol; only for servers.'),
    reconnect: optional(int, 'Connect again so many seconds after the connection was lost.'),
  }),
  udp: wrapped('Udp', {
    remote: required(socketAddressLegacy, 'Where datagrams go.'),
    local: optional(socketAddressLegacy, 'Where they come from.'),
  }),
  pty: plain,
  null: plain,
  mux: wrapped('Mux', { chardev: required(str, 'The device to share.') }),
  msmouse: plain,
  wctablet: plain,
  braille: plain,
  testdev: plain,
  stdio: wrapped('Stdio', { signal: optional(bool, 'Of no effect.') }),
  console: plain,
  spicevmc: wrapped('SpiceChannel', { type: required(str, 'Refused.') }),
  spiceport: wrapped('SpicePort', { fqdn: required(str, 'Refused.') }),
  'qemu-vdagent': wrapped('QemuVDAgent', {
    mouse: optional(bool, 'Refused.'),
    clipboard: optional(bool, 'Refused.'),
  }),
  dbus: wrapped('DBus', { name: required(str, 'Refused.') }),
  vc: wrapped('VC', {
    width: optional(int, 'Refused.'),
    height: optional(int, 'Refused.'),
    cols: optional(int, 'Refused.'),
    rows: optional(int, 'Refused.'),
  }),
  ringbuf: ring,
  memory: ring,
} satisfies Record<string, ObjectType>

const backendKind = enumeration(
  'ChardevBackendKind',
  Object.keys(variants) as (keyof typeof variants)[],
)

export const chardevBackend = union(
  'ChardevBackend',
  { type: required(backendKind, 'Kind of device; `query-chardev-backends` lists those to have.') },
  'type',
  () => variants,
)

export type ChardevBackend = Value<typeof chardevBackend>
export type ChardevKind = ChardevBackend['type']
/** The options of one kind. */
export type ChardevData<K extends ChardevKind> = Extract<ChardevBackend, { type: K }>['data']
