/** A device that is one stream, for as long as both last. */
import type { Duplex } from 'node:stream'
import type { Chardev, Serve } from './chardev.ts'

export class SingleStream implements Chardev {
  readonly filename: string
  readonly #stream: Duplex
  #served: Promise<void> | undefined

  constructor(filename: string, stream: Duplex) {
    this.filename = filename
    this.#stream = stream
    stream.on('error', () => {})
  }

  attach(serve: Serve): void {
    this.#served = serve(this.#stream)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stream.destroy()
    await this.#served
  }
}
