/** Bytes of a socket by the number, for the handshake, where each message says how many follow. */
import type { Socket } from 'node:net'
import { BlockError } from '../../errors.ts'

export class ByteReader {
  readonly #socket: Socket
  #parts: Uint8Array[] = []
  #length = 0
  #failure: unknown
  #wake: (() => void) | undefined
  readonly #onData = (chunk: Uint8Array) => {
    this.#parts.push(chunk)
    this.#length += chunk.length
    this.#wake?.()
  }
  readonly #onEnd = () => {
    this.#fail(new BlockError('PEER', 'the NBD server closed the connection', { errno: 'EIO' }))
  }
  readonly #onError = (error: Error) => this.#fail(error)

  constructor(socket: Socket) {
    this.#socket = socket
    socket.on('data', this.#onData)
    socket.on('error', this.#onError)
    socket.on('end', this.#onEnd)
    socket.on('close', this.#onEnd)
  }

  /** Exactly `length` bytes. */
  async take(length: number): Promise<Uint8Array> {
    while (this.#length < length) {
      if (this.#failure !== undefined) throw this.#failure
      await new Promise<void>((resolve) => {
        this.#wake = resolve
      })
    }
    const all = this.#parts.length === 1 ? this.#parts[0] : Buffer.concat(this.#parts)
    this.#parts = [all.subarray(length)]
    this.#length -= length
    return all.subarray(0, length)
  }

  /** Stops reading. Returns what has come and was not taken; the socket is paused. */
  release(): Uint8Array {
    this.#socket.pause()
    this.#socket.off('data', this.#onData)
    this.#socket.off('error', this.#onError)
    this.#socket.off('end', this.#onEnd)
    this.#socket.off('close', this.#onEnd)
    return Buffer.concat(this.#parts)
  }

  #fail(error: unknown): void {
    this.#failure ??= error
    this.#wake?.()
  }
}
