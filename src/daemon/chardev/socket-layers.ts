/** What a connection passes before its user gets a byte: the handshakes of TLS and of a WebSocket. */
import type { Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import { acceptTls } from '../../tls/accept.ts'
import { connectTls } from '../../tls/connect.ts'
import type { SocketSettings } from './socket-settings.ts'
import { acceptWebSocket } from './websocket.ts'

/** Whoever is not through by then is cut off. Milliseconds. */
const handshakeTimeoutMs = 30_000

/**
 * The stream of a new connection, at once where nothing has to be agreed on. Rejects when that
 * fails; the caller destroys the socket.
 */
export function throughLayers(socket: Socket, settings: SocketSettings): Duplex | Promise<Duplex> {
  socket.setNoDelay(settings.nodelay)
  if (!settings.tls && !settings.websocket) return socket
  // Of the whole, not of a silence: a byte now and then would hold the place for ever.
  const late = setTimeout(() => socket.destroy(), handshakeTimeoutMs)
  return shakeHands(socket, settings).finally(() => clearTimeout(late))
}

async function shakeHands(socket: Socket, settings: SocketSettings): Promise<Duplex> {
  const secured = settings.tls ? await secure(socket, settings) : socket
  secured.on('error', () => {})
  return settings.websocket ? await acceptWebSocket(secured) : secured
}

async function secure(socket: Socket, { server, tls, address }: SocketSettings): Promise<Socket> {
  if (!tls) return socket
  const { credentials, authorise } = tls
  if (!server) {
    const hostname = address.type === 'inet' ? address.host : undefined
    return await connectTls(socket, credentials, hostname)
  }
  return await new Promise((resolve, reject) =>
    acceptTls(socket, credentials, authorise, (result) =>
      result instanceof Error ? reject(result) : resolve(result),
    ),
  )
}

/** Sends what is left to send, and closes. */
export function leave(socket: Socket, stream: Duplex): void {
  if ('destroySoon' in stream) (stream as Socket).destroySoon()
  else stream.end(() => socket.destroySoon())
}
