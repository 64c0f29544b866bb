/** Where servers listen, in the two forms of QMP: flat, and wrapped in `data`. */
import {
  bool,
  enumeration,
  object,
  optional,
  required,
  str,
  uint16,
  union,
  type Value,
} from './types.ts'

const socketType = enumeration('SocketAddressType', ['inet', 'unix', 'vsock', 'fd'])

const inet = object('InetSocketAddress', {
  host: required(str, 'Name or address to bind to.'),
  port: required(str, 'Port number, as a string; `0` takes a free one.'),
  numeric: optional(bool, 'Host and port are numbers, so no name is looked up.'),
  to: optional(uint16, 'The last port that is tried; unless given, only one is.'),
  ipv4: optional(bool, 'Refused when false: the host decides the family.'),
  ipv6: optional(bool, 'Refused when false: the host decides the family.'),
  'keep-alive': optional(bool, 'Refused for servers, as in QEMU.'),
  mptcp: optional(bool, 'Refused: no multipath TCP.'),
})

const unix = object('UnixSocketAddress', {
  path: required(str, 'Path of the socket, which is made with mode 0600.'),
  abstract: optional(bool, 'In the abstract name space, where it needs no file.'),
  tight: optional(bool, 'Unless false, an abstract name is not filled up with zeroes.'),
})

const vsock = object('VsockSocketAddress', {
  cid: required(str, 'Refused: no vsock.'),
  port: required(str, 'Refused: no vsock.'),
})

const fd = object('String', {
  str: required(str, 'Number of a listening socket that was inherited.'),
})

const variants = { inet, unix, vsock, fd }

/** As on command lines: `{type, path}`. */
export const socketAddress = union(
  'SocketAddress',
  { type: required(socketType, 'Kind of address.') },
  'type',
  () => variants,
)

export type SocketAddress = Value<typeof socketAddress>

/** As in `nbd-server-start`: `{type, data: {path}}`. */
export const socketAddressLegacy = union(
  'SocketAddressLegacy',
  { type: required(socketType, 'Kind of address.') },
  'type',
  () => ({
    inet: object('InetSocketAddressWrapper', { data: required(inet, 'The address.') }),
    unix: object('UnixSocketAddressWrapper', { data: required(unix, 'The address.') }),
    vsock: object('VsockSocketAddressWrapper', { data: required(vsock, 'The address.') }),
    fd: object('StringWrapper', { data: required(fd, 'The address.') }),
  }),
)

/** The flat form of a wrapped address. */
export function flatAddress({ type, data }: Value<typeof socketAddressLegacy>): SocketAddress {
  return { type, ...data } as SocketAddress
}
