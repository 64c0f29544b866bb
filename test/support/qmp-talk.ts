/** One side of a comparison: a storage daemon and one monitor of it, spoken to step by step. */

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { main } from './main.ts'

export type Message = Readonly<Record<string, unknown>>

export function command(execute: string, args?: Message): Message {
  return args ? { execute, arguments: args } : { execute }
}

export interface Answers {
  /** What came back, in order, without the events. */
  readonly replies: Message[]
  readonly events: Message[]
}

/** Starts `varve daemon` from the sources, or from `VARVE_MAIN`, which may be a bundle that starts sooner. */
export const varveDaemon: readonly string[] = [process.execPath, main, 'daemon']

/** Longest wait for a line. */
const patienceMs = 10_000

export class QmpTalk implements AsyncDisposable {
  readonly process: ChildProcess
  greeting: Message = {}
  readonly #socket: Socket
  readonly #lines: Message[] = []
  #text = ''
  #wake = () => {}
  #count = 0

  /** Starts `command` in `folder`, where its monitor's socket is made, too. */
  static async start(
    command: readonly string[],
    folder: string,
    options: readonly string[] = [],
  ): Promise<QmpTalk> {
    const [program, ...args] = command
    const monitor = ['--chardev', 'socket,path=qmp.sock,server=on,wait=off,id=talk']
    const child = spawn(program, [...args, ...options, ...monitor, '--monitor', 'talk'], {
      cwd: folder,
      stdio: ['ignore', 'inherit', 'pipe'],
    })
    let stderr = ''
    child.stderr?.on('data', (text) => {
      stderr += text
    })
    const path = join(folder, 'qmp.sock')
    for (;;) {
      const socket = await connected(path)
      if (socket) {
        const talk = new QmpTalk(child, socket)
        talk.greeting = await talk.#line()
        return talk
      }
      if (child.exitCode !== null) throw new Error(`${program} ended: ${stderr}`)
      await sleep(20)
    }
  }

  private constructor(child: ChildProcess, socket: Socket) {
    this.process = child
    this.#socket = socket
    socket.on('error', () => {})
    socket.setEncoding('utf8').on('data', (text: string) => this.#take(text))
  }

  /** Sends `input`, and collects what comes until a command sent behind it is answered. */
  async say(input: Message | string | Uint8Array): Promise<Answers> {
    const id = `end of ${this.#count++}`
    const isBytes = typeof input === 'string' || input instanceof Uint8Array
    this.#socket.write(isBytes ? input : JSON.stringify(input))
    this.#socket.write(` ${JSON.stringify({ execute: 'no-such-command', id })}`)
    const answers: Answers = { replies: [], events: [] }
    for (;;) {
      const line = await this.#line()
      if (line.id === id) return answers
      if ('event' in line) answers.events.push(line)
      else answers.replies.push(line)
    }
  }

  /** Waits for an event. */
  async event(matches: (event: Message) => boolean): Promise<Message[]> {
    const seen: Message[] = []
    for (;;) {
      const line = await this.#line()
      seen.push(line)
      if ('event' in line && matches(line)) return seen
    }
  }

  /** The last word: the answer, and the exit status of the daemon. */
  async quit(): Promise<{ reply: Message; status: number | null }> {
    const ended = once(this.process, 'exit')
    this.#socket.write(JSON.stringify({ execute: 'quit' }))
    let reply = await this.#line()
    while ('event' in reply) reply = await this.#line()
    const [status] = await ended
    return { reply, status }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#socket.destroy()
    if (this.process.exitCode !== null || this.process.signalCode !== null) return
    const ended = once(this.process, 'exit')
    this.process.kill('SIGTERM')
    // Debian's daemon may hang for good.
    const late = setTimeout(() => this.process.kill('SIGKILL'), patienceMs)
    await ended
    clearTimeout(late)
  }

  #take(text: string): void {
    const lines = (this.#text + text).split('\r\n')
    this.#text = lines.pop() as string
    for (const line of lines) this.#lines.push(JSON.parse(line))
    this.#wake()
  }

  async #line(): Promise<Message> {
    const deadline = performance.now() + patienceMs
    while (this.#lines.length === 0) {
      if (this.#socket.destroyed) throw new Error('the monitor is gone')
      if (performance.now() > deadline) throw new Error('the monitor does not answer')
      await new Promise<void>((resolve) => {
        this.#wake = resolve
        setTimeout(resolve, patienceMs / 4).unref()
      })
    }
    return this.#lines.shift() as Message
  }
}

async function connected(path: string): Promise<Socket | undefined> {
  const socket = connect({ path })
  try {
    await once(socket, 'connect')
    return socket
  } catch {
    return undefined
  }
}
