/**
 * A disk for virtual machine monitors, which hand the requests of their guests over in shared memory
 * (vhost-user-blk). There is one client at a time; others wait until it has gone.
 */
import { channel } from 'node:diagnostics_channel'
import { createServer, type Server, type Socket } from 'node:net'
import type { Sys } from '../../sys/sys.ts'
import type { DescriptorWatch } from '../descriptor-watch.ts'
import type { BlockDevice } from './block-device.ts'
import { Connection } from './connection.ts'
import { maxWaitingClients } from './limits.ts'
import { TransferBuffers } from './transfer-buffers.ts'

/** `{ error }`, when a client or its guest has broken the protocol. */
export const brokenClientChannel = channel('vhost-user:broken-client')

interface Served {
  readonly connection: Connection
  /** Once it has gone: when nothing of it is left. */
  ended?: Promise<void>
}

export class VhostUserServer implements AsyncDisposable {
  readonly server: Server
  readonly #sys: Sys
  readonly #watch: DescriptorWatch
  readonly #device: BlockDevice
  readonly #buffers: TransferBuffers
  readonly #waiting: Socket[] = []
  /** The client that is served, or whose last requests are waited for. */
  #current: Served | undefined
  #capacity: number
  #closed = false

  /** Whoever has made it lets `server` listen. */
  constructor(sys: Sys, watch: DescriptorWatch, device: BlockDevice) {
    this.#sys = sys
    this.#watch = watch
    this.#device = device
    this.#buffers = new TransferBuffers(sys)
    this.#capacity = device.capacity
    // Nobody reads of them but `Connection`, which takes descriptors, too.
    this.server = createServer({ pauseOnConnect: true }, (socket) => this.#admit(socket))
  }

  /** The disk may have got another size. */
  checkSize(): void {
    if (this.#device.capacity === this.#capacity) return
    this.#capacity = this.#device.capacity
    this.#current?.connection.session.configChanged()
  }

  /** What is under way is done and answered first. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true
    const closing = new Promise((resolve) => this.server.close(resolve))
    for (const socket of this.#waiting.splice(0)) socket.destroy()
    const current = this.#current
    if (current && !current.ended) {
      await current.connection.session.queues.finish()
      await current.connection.close()
    }
    await this.#current?.ended
    await closing
  }

  #admit(socket: Socket): void {
    socket.on('error', () => {})
    if (this.#closed || this.#waiting.length >= maxWaitingClients) socket.destroy()
    else this.#waiting.push(socket)
    this.#serveNext()
  }

  #serveNext(): void {
    if (this.#current || this.#closed) return
    const socket = this.#waiting.shift()
    if (!socket) return
    const { sharedMemory } = this.#sys
    const fd = descriptorOf(socket)
    if (!sharedMemory || fd === undefined) {
      socket.destroy()
      return
    }
    const connection = new Connection({
      sys: sharedMemory,
      watch: this.#watch,
      device: this.#device,
      buffers: this.#buffers,
      socket: fd,
      onGone: (error) => {
        if (error !== undefined) brokenClientChannel.publish({ error })
        current.ended = this.#leave(connection, socket)
      },
    })
    const current: Served = { connection }
    this.#current = current
  }

  /** Never rejects. */
  async #leave(connection: Connection, socket: Socket): Promise<void> {
    socket.destroy()
    await connection.close().catch((error) => brokenClientChannel.publish({ error }))
    this.#current = undefined
    this.#serveNext()
  }
}

/** Of a socket that Node has accepted; undefined where it has been closed. */
function descriptorOf(socket: Socket): number | undefined {
  const { _handle: handle } = socket as unknown as { _handle?: { fd?: number } }
  return handle?.fd !== undefined && handle.fd >= 0 ? handle.fd : undefined
}
