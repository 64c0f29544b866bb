/**
 * `mux`: several users on one device. All of them write to it, what comes goes to the one that has
 * the focus, and Ctrl-A begins a command to the multiplexer.
 */

import { Duplex } from 'node:stream'
import { invalid } from '../../errors.ts'
import type { Chardev, ChardevContext, ChardevData, Serve } from './chardev.ts'

/** QEMU's, too. */
const maxUsers = 4

const ctrlA = 0x01

const help = [
  'C-a h    print this help',
  'C-a x    exit emulator',
  'C-a c    switch between console and monitor',
  'C-a C-a  sends C-a',
]

export function openMux({ chardev }: ChardevData<'mux'>, context: ChardevContext): Chardev {
  if (!context.has(chardev)) throw invalid(`mux: base chardev ${chardev} not found`)
  const mux = new Mux(() => context.quit())
  context.attach(
    chardev,
    (client) => mux.serveClient(client),
    () => mux.hasUsers,
  )
  return mux
}

class Mux implements Chardev {
  readonly filename = 'mux'
  readonly shared = true
  readonly #quit: () => void
  readonly #users: Serve[] = []
  readonly #conversations = new Set<Conversation>()

  constructor(quit: () => void) {
    this.#quit = quit
  }

  attach(serve: Serve): void {
    if (this.#users.length >= maxUsers) throw invalid('too many users of a mux chardev')
    this.#users.push(serve)
    for (const conversation of this.#conversations) conversation.join(serve)
  }

  get hasUsers(): boolean {
    return this.#users.length > 0
  }

  /** A client of the device below, until it leaves. */
  async serveClient(client: Duplex): Promise<void> {
    const conversation = new Conversation(client, this.#quit)
    this.#conversations.add(conversation)
    for (const serve of this.#users) conversation.join(serve)
    try {
      await conversation.run()
    } finally {
      this.#conversations.delete(conversation)
    }
  }

  /** The device below is disposed by its own owner, and with it the clients. */
  async [Symbol.asyncDispose](): Promise<void> {}
}

class Conversation {
  readonly #client: Duplex
  readonly #quit: () => void
  readonly #lines: Line[] = []
  readonly #sessions: Promise<void>[] = []
  /** Whom input goes to: an index of `#lines`. */
  #focus = 0
  #escaped = false

  constructor(client: Duplex, quit: () => void) {
    this.#client = client
    this.#quit = quit
    client.on('error', () => {})
  }

  /** The newest user has the focus. */
  join(serve: Serve): void {
    const line = new Line(this.#client)
    this.#focus = this.#lines.push(line) - 1
    this.#sessions.push(serve(line))
  }

  async run(): Promise<void> {
    try {
      for await (const bytes of this.#client) await this.#take(bytes as Uint8Array)
    } catch (error) {
      if (!this.#client.destroyed) throw error
    }
    for (const line of this.#lines) line.push(null)
    await Promise.all(this.#sessions)
    this.#client.end()
  }

  async #take(bytes: Uint8Array): Promise<void> {
    let start = 0
    for (const [index, byte] of bytes.entries()) {
      if (!this.#escaped && byte !== ctrlA) continue
      if (this.#escaped) await this.#command(byte)
      else await this.#forward(bytes.subarray(start, index))
      this.#escaped = !this.#escaped
      start = index + 1
    }
    await this.#forward(bytes.subarray(start))
  }

  /** Settles when there is room for more. */
  async #forward(bytes: Uint8Array): Promise<void> {
    if (bytes.length > 0) await this.#lines[this.#focus]?.deliver(bytes)
  }

  async #command(byte: number): Promise<void> {
    if (byte === ctrlA) await this.#forward(Uint8Array.of(ctrlA))
    switch (String.fromCharCode(byte)) {
      case 'h':
      case '?':
        this.#client.write(`\n\r${help.join('\n\r')}\n\r`)
        break
      case 'x':
        this.#client.write('QEMU: Terminated\n\r')
        this.#quit()
        break
      case 'c':
        this.#focus = (this.#focus + 1) % this.#lines.length
    }
  }
}

/** One user's stream. */
class Line extends Duplex {
  readonly #client: Duplex

  #wake = () => {}

  constructor(client: Duplex) {
    super()
    this.#client = client
  }

  async deliver(bytes: Uint8Array): Promise<void> {
    if (this.destroyed || this.push(bytes)) return
    await new Promise<void>((resolve) => {
      this.#wake = resolve
    })
  }

  override _read(): void {
    this.#wake()
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#wake()
    done(error)
  }

  override _write(bytes: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    this.#client.write(bytes, done)
  }
}
