/** Writes one behind the other; the next is made while the one before is on its way. */
import type { ByteSink } from './sink.ts'

export class Outbox {
  readonly #sink: ByteSink
  #underway: Promise<void> | undefined

  constructor(sink: ByteSink) {
    this.#sink = sink
  }

  /**
   * Begins to write once what was put before is written, and reports if that has failed. One at a
   * time; the bytes have to stay until the next one, or `flush`, has settled.
   */
  async put(bytes: Uint8Array): Promise<void> {
    await this.#underway
    this.#underway = this.#sink.write(bytes)
    // Told to whoever comes next.
    this.#underway.catch(() => {})
  }

  /** Waits until everything is written. */
  async flush(): Promise<void> {
    await this.#underway
  }
}
