/** What a `socket` device was told, made sense of. */
import type { Duplex } from 'node:stream'
import { invalid } from '../../errors.ts'
import type { Authorise } from '../../tls/accept.ts'
import type { TlsCredentials } from '../../tls/credentials.ts'
import { notWritable, type PropertyValues } from '../qom/property-values.ts'
import { flatAddress, type SocketAddress } from '../schema/socket-address.ts'
import type { ChardevContext, ChardevData } from './chardev.ts'
import { overTelnet, type TelnetKind } from './telnet.ts'

export interface SocketSettings {
  readonly address: SocketAddress
  readonly server: boolean
  readonly tls: SocketTls | undefined
  readonly websocket: boolean
  readonly telnet: TelnetKind | undefined
  /** Do not go on before the first client is there. */
  readonly wait: boolean
  readonly nodelay: boolean
  /** Connect again so many seconds after the connection was lost; 0 is never. */
  readonly reconnect: number
}

export interface SocketTls {
  readonly credentials: TlsCredentials
  /** Of clients of a server: who of them may come in. */
  readonly authorise: Authorise | undefined
}

/** In the order in which QEMU finds fault. */
export function socketSettings(
  data: ChardevData<'socket'>,
  context: ChardevContext,
): SocketSettings {
  const address = flatAddress(data.addr)
  const { server = true, reconnect = 0, telnet = false, tn3270 = false } = data
  const { 'tls-creds': credentials, 'tls-authz': authorisation } = data
  const tls =
    credentials === undefined
      ? undefined
      : {
          credentials: context.tlsCredentials(credentials, server ? 'server' : 'client'),
          authorise: authorisation === undefined ? undefined : context.authorisation(authorisation),
        }
  if (address.type === 'unix' && credentials !== undefined) {
    throw invalid("'tls_creds' option is incompatible with 'unix' address type")
  }
  if (authorisation !== undefined && credentials === undefined) {
    throw invalid("'tls_authz' option requires 'tls_creds' option")
  }
  if (data.websocket && !server) throw invalid('Websocket client is not implemented')
  if (server && data.reconnect !== undefined) {
    throw invalid("'reconnect' option is incompatible with socket in server listen mode")
  }
  if (!server && data.wait !== undefined) {
    throw invalid("'wait' option is incompatible with socket in client connect mode")
  }
  return {
    address,
    server,
    tls,
    websocket: data.websocket ?? false,
    telnet: telnet ? 'telnet' : tn3270 ? 'tn3270' : undefined,
    wait: data.wait ?? false,
    nodelay: data.nodelay ?? false,
    reconnect,
  }
}

/** The stream of a connection as the device's user gets it. */
export function clientStream(stream: Duplex, { telnet }: SocketSettings): Duplex {
  return telnet ? overTelnet(stream, telnet) : stream
}

/** Of a connection that has no user yet: sees it end, and keeps what comes before that. */
export function noticeEnd(stream: Duplex): void {
  stream.on('readable', finishAtEnd)
  stream.once('end', closeBack)
}

/** Leaves the stream to its user. */
export function ignoreEnd(stream: Duplex): void {
  stream.off('readable', finishAtEnd)
  stream.off('end', closeBack)
}

function finishAtEnd(this: Duplex): void {
  if (this.readableLength === 0) this.read()
}

function closeBack(this: Duplex): void {
  this.end()
}

/** `tcp:`, `telnet:` or `websocket:`, before an address of the internet. */
export function schemeOf({ telnet, websocket }: SocketSettings): string {
  if (telnet === 'telnet') return telnet
  return websocket ? 'websocket' : 'tcp'
}

/** `connected` and `addr`. */
export class SocketProperties implements PropertyValues {
  readonly #connected: () => boolean
  readonly #address: () => SocketAddress

  constructor(connected: () => boolean, address: () => SocketAddress) {
    this.#connected = connected
    this.#address = address
  }

  get(name: string): unknown {
    return name === 'connected' ? this.#connected() : this.#address()
  }

  set(name: string): void {
    throw notWritable('chardev-socket', name)
  }
}
