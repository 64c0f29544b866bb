/** Where a server is: as options have it, and as people read it. */
import type { NodeOptions } from '../../block/driver.ts'
import { missing, OptionReader } from '../../block/options.ts'
import { BlockError, invalid } from '../../errors.ts'
import { NBD_DEFAULT_PORT } from '../../wire/nbd/constants.ts'

/** Bytes of a path in `struct sockaddr_un`. */
const maxPathLength = 108

export type NbdAddress =
  /** An abstract socket's path begins with a NUL. */
  | { readonly type: 'unix'; readonly path: string }
  | { readonly type: 'inet'; readonly host: string; readonly port: number }

/** For messages: the path, or `host:port`. */
export function addressText(address: NbdAddress): string {
  if (address.type === 'unix') return address.path.replaceAll('\0', '')
  return address.host.includes(':')
    ? `[${address.host}]:${address.port}`
    : `${address.host}:${address.port}`
}

/** The URL that opens an export again. */
export function exportUrl(address: NbdAddress, name: string): string {
  if (address.type === 'inet') return `nbd://${addressText(address)}${name && `/${escaped(name)}`}`
  // As QEMU shows it, without the third slash where there is no name.
  return `nbd+unix://${name && `/${escaped(name)}`}?socket=${encodeURI(addressText(address)).replaceAll('&', '%26')}`
}

function escaped(name: string): string {
  return name.split('/').map(encodeURIComponent).join('/')
}

/** `server`, or `path`, `host` and `port` beside the other options as older QEMU had them. */
export function takeAddress(reader: OptionReader): NbdAddress {
  const server = reader.take('server')
  if (server !== undefined) return serverAddress(server)
  const path = reader.string('path')
  const host = reader.string('host')
  const port = reader.take('port')
  if (path !== undefined && host !== undefined) {
    throw new BlockError('INVALID_ARGUMENT', 'path and host may not be used at the same time')
  }
  if (path !== undefined) return { type: 'unix', path }
  if (host === undefined) throw new BlockError('INVALID_ARGUMENT', 'NBD server address missing')
  return { type: 'inet', host, port: portNumber(port ?? NBD_DEFAULT_PORT, host) }
}

function serverAddress(server: unknown): NbdAddress {
  if (typeof server !== 'object' || server === null) {
    throw new BlockError(
      'INVALID_ARGUMENT',
      "Invalid parameter type for 'server', expected: object",
    )
  }
  const reader = new OptionReader(server as NodeOptions)
  const type = reader.oneOf('type', ['inet', 'unix', 'vsock', 'fd'])
  if (type === undefined) throw missing('type')
  if (type === 'vsock' || type === 'fd') {
    throw new BlockError('UNSUPPORTED', `an NBD server of type '${type}' is not supported`)
  }
  const address = type === 'unix' ? unixAddress(reader) : inetAddress(reader)
  reader.finish()
  return address
}

function unixAddress(reader: OptionReader): NbdAddress {
  const path = reader.requiredString('path')
  const abstract = reader.boolean('abstract') ?? false
  const tight = reader.boolean('tight') ?? true
  if (Buffer.byteLength(path) > maxPathLength - (abstract ? 1 : 0)) {
    throw invalid(`UNIX socket path '${path}' is too long`)
  }
  return { type: 'unix', path: abstract ? abstractName(path, tight) : path }
}

/** It begins with a byte of 0; unless it is tight, zeroes fill it up, too. */
function abstractName(name: string, tight: boolean): string {
  return `\0${name}`.padEnd(tight ? 0 : maxPathLength, '\0')
}

function inetAddress(reader: OptionReader): NbdAddress {
  const host = reader.requiredString('host')
  const port = reader.take('port')
  if (port === undefined) throw missing('port')
  return { type: 'inet', host, port: portNumber(port, host) }
}

/** Ports are text in QEMU's options, since they may be names of services; ours are numbers. */
export function portNumber(port: unknown, host: string): number {
  const number = typeof port === 'string' && /^\d{1,5}$/.test(port) ? Number(port) : port
  if (typeof number === 'number' && Number.isInteger(number) && number > 0 && number < 65536) {
    return number
  }
  throw new BlockError(
    'INVALID_ARGUMENT',
    `address resolution failed for ${host}:${port}: a port is a number from 1 to 65535`,
  )
}
