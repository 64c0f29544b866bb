/** `udp`: each piece that is written is a datagram, and what comes is read as it comes. */
import { createSocket, type Socket } from 'node:dgram'
import { once } from 'node:events'
import { Duplex } from 'node:stream'
import { BlockError, errnoOf, invalid, strerror } from '../../errors.ts'
import { flatAddress, type SocketAddress } from '../schema/socket-address.ts'
import type { Chardev, ChardevData } from './chardev.ts'
import { SingleStream } from './single-stream.ts'
import { type Endpoint, resolveInet } from './socket-address.ts'

/** Bytes that an IPv4 datagram can carry. */
const maxDatagram = 65507

export async function openUdp({ remote, local }: ChardevData<'udp'>): Promise<Chardev> {
  const to = await endpoint(flatAddress(remote), 'localhost')
  const from = local && (await endpoint(flatAddress(local), to.family === 6 ? '::' : '0.0.0.0'))
  if (from && from.family !== to.family) {
    throw invalid(
      `address resolution failed for ${from.host}:${from.port}: ` +
        'Address family for hostname not supported',
    )
  }
  const socket = createSocket({ type: to.family === 6 ? 'udp6' : 'udp4', reuseAddr: true })
  try {
    if (from) await settled(socket, 'listening', () => socket.bind(from.port, from.host))
    await settled(socket, 'connect', () => socket.connect(to.port, to.host))
  } catch (error) {
    socket.close()
    const reason = strerror(errnoOf(error) ?? 'EIO')
    throw new BlockError('IO', `Failed to bind socket: ${reason}`, { cause: error })
  }
  return new SingleStream('udp', new DatagramStream(socket))
}

async function endpoint(address: SocketAddress, usualHost: string): Promise<Endpoint> {
  if (address.type !== 'inet') throw invalid('socket type unsupported for datagram')
  if (address.port === '') throw invalid('remote port not specified')
  return await resolveInet(address, usualHost)
}

async function settled(socket: Socket, event: string, start: () => void): Promise<void> {
  const happened = once(socket, event)
  start()
  await happened
}

class DatagramStream extends Duplex {
  readonly #socket: Socket

  constructor(socket: Socket) {
    super()
    this.#socket = socket
    // A full buffer loses datagrams, which the network may do, too.
    socket.on(
      'message',
      (bytes) => this.readableLength < this.readableHighWaterMark && this.push(bytes),
    )
    // Nobody listens at the other end: the next datagram may find somebody.
    socket.on('error', () => {})
  }

  override _read(): void {}

  override _write(bytes: Buffer, encoding: BufferEncoding, done: () => void): void {
    const piece = bytes.subarray(0, maxDatagram)
    this.#socket.send(piece, () => {
      if (piece.length < bytes.length) this._write(bytes.subarray(piece.length), encoding, done)
      else done()
    })
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#socket.close(() => done(error))
  }
}
