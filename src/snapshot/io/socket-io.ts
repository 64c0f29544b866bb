/** Streams over a socket, in both directions. */
import type { Socket } from 'node:net'
import { BlockError, systemError } from '../../errors.ts'
import type { ByteSource } from '../stream/window.ts'
import type { ByteSink } from './sink.ts'

export class SocketSource implements ByteSource {
  readonly name: string
  readonly #chunks: AsyncIterator<Buffer>
  #chunk: Uint8Array = new Uint8Array(0)

  constructor(socket: Socket, name: string) {
    this.name = name
    this.#chunks = socket.iterator({ destroyOnReturn: false })
  }

  async read(target: Uint8Array): Promise<number> {
    while (this.#chunk.length === 0) {
      const next = await this.#chunks.next().catch((error) => {
        throw systemError(error, `Could not read ${this.name}`, { path: this.name })
      })
      if (next.done) return 0
      this.#chunk = next.value
    }
    const part = this.#chunk.subarray(0, target.length)
    target.set(part)
    this.#chunk = this.#chunk.subarray(part.length)
    return part.length
  }
}

export class SocketSink implements ByteSink {
  readonly name: string
  readonly #socket: Socket

  constructor(socket: Socket, name: string) {
    this.#socket = socket
    this.name = name
    // Whoever writes hears of it.
    socket.on('error', () => {})
  }

  write(bytes: Uint8Array): Promise<void> {
    return new Promise((resolve, reject) => {
      const socket = this.#socket
      const fail = (error?: Error | null) => {
        const cause = error ?? socket.errored
        reject(
          cause
            ? systemError(cause, `Could not write to ${this.name}`, { path: this.name })
            : new BlockError('CLOSED', `${this.name} was closed`, { errno: 'EPIPE' }),
        )
      }
      const closed = () => fail()
      if (socket.destroyed) return closed()
      socket.once('close', closed)
      socket.write(bytes, (error) => {
        socket.off('close', closed)
        if (error) fail(error)
        else resolve()
      })
    })
  }

  async end(): Promise<void> {
    const socket = this.#socket
    if (socket.destroyed || socket.writableEnded) return
    await new Promise<void>((resolve) => {
      // Whoever destroys it meanwhile ends it, too.
      socket.once('close', () => resolve())
      socket.end(() => resolve())
    })
  }
}
