/** A stream over another, which changes or notes what passes. */
import { Duplex } from 'node:stream'

export interface Passage {
  /** What the user gets of what came. */
  incoming?(bytes: Uint8Array): Uint8Array
  /** What is sent of what the user wrote. */
  outgoing?(bytes: Uint8Array): Uint8Array
}

export class LayeredStream extends Duplex {
  readonly #below: Duplex
  readonly #passage: Passage

  constructor(below: Duplex, passage: Passage) {
    super({ allowHalfOpen: true })
    this.#below = below
    this.#passage = passage
    below.on('data', (bytes: Uint8Array) => {
      const seen = passage.incoming?.(bytes) ?? bytes
      if (seen.length > 0 && !this.push(seen)) below.pause()
    })
    below.once('end', () => this.push(null))
    below.once('error', (error) => this.destroy(error))
    below.once('close', () => this.destroy())
  }

  override _read(): void {
    this.#below.resume()
  }

  override _write(bytes: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    this.#below.write(this.#passage.outgoing?.(bytes) ?? bytes, done)
  }

  override _final(done: () => void): void {
    this.#below.end(done)
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#below.destroy()
    done(error)
  }
}
