/**
 * The server's side of a WebSocket (RFC 6455), as QEMU speaks it: a client that offers protocols
 * offers `binary`, and the messages of either side, one behind the other, are the stream.
 */
import type { Duplex } from 'node:stream'
import { MiB } from '../../bytes/range.ts'

/** Bytes of one message; a longer one ends the connection. */
const maxMessageLength = 16 * MiB

const protocol = 'binary'

/** Rejects when the client asked for something else, or went away; it has been told, then. */
export async function acceptWebSocket(below: Duplex): Promise<Duplex> {
  const { createServer } = await import('node:http')
  const { createWebSocketStream, WebSocketServer } = await import('ws')
  // Neither listens: a connection that is already there is handed to them.
  const http = createServer()
  const sockets = new WebSocketServer({
    noServer: true,
    perMessageDeflate: false,
    maxPayload: maxMessageLength,
    handleProtocols: () => protocol,
  })
  return await new Promise((resolve, reject) => {
    const refused = () => reject(new Error('no WebSocket client'))
    below.once('close', refused)
    http.on('clientError', () => below.destroy())
    http.on('request', (_, response) => {
      response.writeHead(400, { connection: 'close' }).end()
      refused()
    })
    http.on('upgrade', (request, socket, head) => {
      const offered = request.headers['sec-websocket-protocol']
      if (offered !== undefined && !offered.split(',').some((name) => name.trim() === protocol)) {
        socket.end('HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n')
        refused()
        return
      }
      sockets.handleUpgrade(request, socket, head, (client) =>
        resolve(createWebSocketStream(client)),
      )
    })
    http.emit('connection', below)
  })
}
