/** The character devices of a daemon, by id, and who uses them. */
import { Duplex, type Readable, type Writable } from 'node:stream'
import { BlockError, invalid } from '../../errors.ts'
import { openChardev } from './backends.ts'
import type { Chardev, ChardevBackend, ChardevContext, ChardevKind, Serve } from './chardev.ts'
import type { RingBuffer } from './ring-buffer.ts'

/** Standard input and output, asked for when a device wants them. */
export type Stdio = () => { readonly input: Readable; readonly output: Writable }

export interface ChardevInfo {
  readonly label: string
  readonly filename: string
  readonly 'frontend-open': boolean
}

interface Entry {
  readonly type: ChardevKind
  readonly device: Chardev
  /** Whether the user is there, in the eyes of QEMU; absent: there is no user. */
  isOpen?: () => boolean
}

export class ChardevTable implements AsyncDisposable {
  readonly #entries = new Map<string, Entry>()
  /** Ids of devices that are being opened. */
  readonly #coming = new Set<string>()
  readonly #context: ChardevContext
  #stdioTaken = false

  constructor(
    stdio: Stdio,
    objects: Pick<ChardevContext, 'tlsCredentials' | 'authorisation'>,
    signal: AbortSignal,
    quit: () => void,
  ) {
    this.#context = {
      signal,
      quit,
      tlsCredentials: (id, endpoint) => objects.tlsCredentials(id, endpoint),
      authorisation: (id) => objects.authorisation(id),
      has: (id) => this.#entries.has(id),
      attach: (id, serve, isOpen) => this.attach(id, serve, isOpen),
      takeStdio: () => {
        if (this.#stdioTaken) throw invalid('cannot use stdio by multiple character devices')
        this.#stdioTaken = true
        const { input, output } = stdio()
        return Duplex.from({ readable: input, writable: output })
      },
    }
  }

  has(id: string): boolean {
    return this.#entries.has(id) || this.#coming.has(id)
  }

  /** Settles when the device is open; with `wait`, when its first client is there. */
  async add(id: string, backend: ChardevBackend): Promise<Chardev> {
    if (this.has(id)) {
      throw invalid(`attempt to add duplicate property '${id}' to object (type 'container')`)
    }
    this.#coming.add(id)
    try {
      const device = await openChardev(backend, this.#context)
      this.#entries.set(id, { type: backend.type, device })
      if (device.ready) await this.#orEnd(device.ready)
      return device
    } finally {
      this.#coming.delete(id)
    }
  }

  /** Gives the clients of a device to `serve`; a device has one user. */
  attach(id: string, serve: Serve, isOpen = () => true): void {
    const entry = this.#entries.get(id)
    if (!entry) throw invalid(`chardev "${id}" not found`)
    if (entry.isOpen && !entry.device.shared) throw invalid(`Device '${id}' is in use`)
    entry.device.attach(serve)
    entry.isOpen = isOpen
  }

  /** Throws unless `change` can begin. */
  checkChange(id: string): void {
    const entry = this.#entries.get(id)
    if (!entry) throw invalid(`Chardev '${id}' does not exist`)
    if (entry.device.shared) throw invalid('Mux device hotswap not supported yet')
    if (entry.isOpen) throw invalid('Chardev user does not support chardev hotswap')
  }

  /** Another device of that name, where nobody uses the one there is. */
  async change(id: string, backend: ChardevBackend): Promise<Chardev> {
    this.checkChange(id)
    // As in QEMU the old one is gone even if the new one cannot be had: they may share an address.
    await this.remove(id)
    return await this.add(id, backend)
  }

  async remove(id: string): Promise<void> {
    const entry = this.#entry(id)
    if (entry.isOpen || entry.device.shared) throw invalid(`Chardev '${id}' is busy`)
    this.#entries.delete(id)
    await entry.device[Symbol.asyncDispose]()
  }

  checkThere(id: string): void {
    this.#entry(id)
  }

  ring(id: string): RingBuffer {
    const entry = this.#entries.get(id)
    if (!entry) throw invalid(`Device '${id}' not found`)
    if (!entry.device.ring) throw invalid(`${id} is not a ringbuf device`)
    return entry.device.ring
  }

  list(): ChardevInfo[] {
    return [...this.#entries].map(([label, { device, isOpen }]) => ({
      label,
      filename: device.filename,
      'frontend-open': isOpen?.() ?? false,
    }))
  }

  /** With their ids. */
  *[Symbol.iterator](): Generator<
    [string, { readonly type: ChardevKind; readonly device: Chardev }]
  > {
    yield* this.#entries
  }

  /** Users first: what stands on another device lets go of it. */
  async [Symbol.asyncDispose](): Promise<void> {
    const entries = [...this.#entries.values()].reverse()
    this.#entries.clear()
    for (const { device } of entries) await device[Symbol.asyncDispose]()
  }

  #entry(id: string): Entry {
    const entry = this.#entries.get(id)
    if (!entry) throw invalid(`Chardev '${id}' not found`)
    return entry
  }

  async #orEnd(ready: Promise<void>): Promise<void> {
    const { signal } = this.#context
    const given = new AbortController()
    const ended = new Promise<never>((_, reject) => {
      const end = () => reject(new BlockError('CLOSED', 'the daemon is ending'))
      if (signal.aborted) end()
      else signal.addEventListener('abort', end, { signal: given.signal })
    })
    await Promise.race([ready, ended]).finally(() => given.abort())
  }
}
