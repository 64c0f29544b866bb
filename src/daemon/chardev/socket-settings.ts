/** What a `socket` device was told, made sense of. */

import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { notWritable, type PropertyValues } from '../qom/property-values.ts'
import { flatAddress, type SocketAddress } from '../schema/socket-address.ts'
import { type ChardevData, invalid, unsupported } from './chardev.ts'
import { overTelnet, type TelnetKind } from './telnet.ts'

export interface SocketSettings {
  readonly address: SocketAddress
  readonly server: boolean
  readonly telnet: TelnetKind | undefined
  /** Do not go on before the first client is there. */
  readonly wait: boolean
  readonly nodelay: boolean
  /** Connect again so many seconds after the connection was lost; 0 is never. */
  readonly reconnect: number
}

/** In the order in which QEMU finds fault. */
export function socketSettings(data: ChardevData<'socket'>): SocketSettings {
  const { server = true, reconnect = 0, telnet = false, tn3270 = false } = data
  if (data['tls-creds'] !== undefined) throw unsupported('chardev: TLS is not supported')
  if (data['tls-authz'] !== undefined)
    throw invalid("'tls_authz' option requires 'tls_creds' option")
  if (data.websocket && !server) throw invalid('Websocket client is not implemented')
  if (data.websocket) throw unsupported('chardev: websocket is not supported')
  if (server && reconnect > 0) {
    throw invalid("'reconnect' option is incompatible with socket in server listen mode")
  }
  if (!server && data.wait !== undefined) {
    throw invalid("'wait' option is incompatible with socket in client connect mode")
  }
  return {
    address: flatAddress(data.addr),
    server,
    telnet: telnet ? 'telnet' : tn3270 ? 'tn3270' : undefined,
    wait: data.wait ?? false,
    nodelay: data.nodelay ?? false,
    reconnect,
  }
}

/** The stream of a connection as the device's user gets it. */
export function clientStream(socket: Socket, { telnet, nodelay }: SocketSettings): Duplex {
  socket.setNoDelay(nodelay)
  return telnet ? overTelnet(socket, telnet) : socket
}

/** Of a connection that has no user yet: sees it end, and keeps what comes before that. */
export function noticeEnd(socket: Socket): void {
  socket.on('readable', finishAtEnd)
  socket.once('end', closeBack)
}

/** Leaves the stream to its user. */
export function ignoreEnd(socket: Socket): void {
  socket.off('readable', finishAtEnd)
  socket.off('end', closeBack)
}

function finishAtEnd(this: Socket): void {
  if (this.readableLength === 0) this.read()
}

function closeBack(this: Socket): void {
  this.end()
}

/** `tcp:` or `telnet:`, before an address of the internet. */
export function schemeOf({ telnet }: SocketSettings): string {
  return telnet === 'telnet' ? 'telnet' : 'tcp'
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
