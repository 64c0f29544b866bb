/** `pty`: a terminal, made for whoever opens it. Each time that it is opened is a client. */
import { closeSync, constants, openSync } from 'node:fs'
import { errnoOf, invalid, strerror } from '../../errors.ts'
import type { Chardev, Serve } from './chardev.ts'
import { PolledStream, readNow } from './polled-stream.ts'
import { makeRaw, requireTerminals, unlockTerminal } from './terminal.ts'

const { O_RDWR, O_NOCTTY, O_NONBLOCK } = constants

/** How often it is looked whether somebody has opened the terminal. */
const lookMs = 200

export async function openPty(): Promise<Chardev> {
  requireTerminals()
  let master: number | undefined
  try {
    master = openSync('/dev/ptmx', O_RDWR + O_NOCTTY + O_NONBLOCK)
    const path = `/dev/pts/${await unlockTerminal(master)}`
    // Once opened and closed, a terminal shows at its other end that nobody is there.
    const terminal = openSync(path, O_RDWR + O_NOCTTY)
    await makeRaw(terminal).finally(() => closeSync(terminal))
    return new PtyDevice(master, path)
  } catch (error) {
    if (master !== undefined) closeSync(master)
    throw invalid(`Failed to create PTY: ${strerror(errnoOf(error) ?? 'EIO')}`)
  }
}

class PtyDevice implements Chardev {
  readonly pty: string
  readonly filename: string
  readonly #master: number
  #timer: NodeJS.Timeout | undefined
  #serve: Serve | undefined
  #stream: PolledStream | undefined
  #session: Promise<void> | undefined

  constructor(master: number, path: string) {
    this.#master = master
    this.pty = path
    this.filename = `pty:${path}`
  }

  attach(serve: Serve): void {
    this.#serve = serve
    this.#timer = setInterval(() => this.#look(), lookMs)
    this.#timer.unref()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer)
    this.#stream?.destroy()
    await this.#session
    closeSync(this.#master)
  }

  #look(): void {
    if (this.#stream || !this.#serve) return
    const first = readNow(this.#master)
    if (first === 'gone') return
    const stream = new PolledStream(this.#master)
    stream.on('error', () => {})
    if (first) stream.unshift(first)
    this.#stream = stream
    this.#session = this.#serve(stream).finally(() => {
      stream.destroy()
      this.#stream = undefined
    })
  }
}
