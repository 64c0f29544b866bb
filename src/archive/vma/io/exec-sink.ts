/**
 * An archive into the standard input of a shell command. The archive is complete when the command
 * has taken everything and exits with 0. When it is given up the command is stopped before its
 * input ends, so that it cannot take the end for success.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import type { Writable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { BlockError, systemError } from '../../../errors.ts'
import type { ArchiveSink } from './sink.ts'
import { StreamSink } from './stream-sink.ts'

/** How long a command that no longer reads may take to exit and so tell why. */
const endingGraceMs = 200
/** How long a command may take to clean up when the archive is given up. */
const stopGraceMs = 2000

interface Ending {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

export class ExecSink implements ArchiveSink {
  readonly #command: string
  readonly #child: ChildProcess
  readonly #input: StreamSink
  readonly #ending: Promise<Ending>

  private constructor(command: string, child: ChildProcess & { stdin: Writable }) {
    this.#command = command
    this.#child = child
    this.#input = new StreamSink(child.stdin, { name: `'${command}'`, end: true })
    this.#ending = new Promise((resolve) => {
      child.once('close', (code, signal) => resolve({ code, signal }))
    })
  }

  /** Starts `command` in a process group of its own, with our standard output and error. */
  static async start(command: string, signal?: AbortSignal): Promise<ExecSink> {
    const child = spawn('/bin/sh', ['-c', command], {
      stdio: ['pipe', 'inherit', 'inherit'],
      detached: true,
    })
    const sink = new ExecSink(command, child)
    try {
      await once(child, 'spawn')
    } catch (error) {
      throw systemError(error, `Could not start '${command}'`)
    }
    sink.#stopOn(signal)
    return sink
  }

  async write(bytes: Uint8Array): Promise<void> {
    try {
      await this.#input.write(bytes)
    } catch (error) {
      // It closed its input: most often because it has failed, and then that is the news.
      const ending = await Promise.race([
        this.#ending,
        sleep(endingGraceMs, undefined, { ref: false }),
      ])
      if (ending) this.#checkEnding(ending)
      throw error
    }
  }

  async finish(): Promise<void> {
    const [input, ending] = await Promise.allSettled([this.#input.finish(), this.#ending])
    if (ending.status === 'fulfilled') this.#checkEnding(ending.value)
    if (input.status === 'rejected') throw input.reason
  }

  async abort(): Promise<void> {
    this.#stop('SIGTERM')
    await this.#input.abort()
    const ended = await Promise.race([this.#ending, sleep(stopGraceMs, undefined, { ref: false })])
    if (!ended) this.#stop('SIGKILL')
    await this.#ending
  }

  /** Until the command has ended, `signal` ends it. */
  #stopOn(signal: AbortSignal | undefined): void {
    if (!signal) return
    const stop = () => this.#stop('SIGTERM')
    if (signal.aborted) stop()
    signal.addEventListener('abort', stop, { once: true })
    void this.#ending.then(() => signal.removeEventListener('abort', stop))
  }

  /** Ends the command with everything that it started. */
  #stop(signal: NodeJS.Signals): void {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    try {
      process.kill(-this.#child.pid!, signal)
    } catch {
      this.#child.kill(signal)
    }
  }

  #checkEnding({ code, signal }: Ending): void {
    if (code === 0) return
    const how = signal ? `was ended by ${signal}` : `failed with exit status ${code}`
    throw new BlockError('IO', `The command '${this.#command}' ${how}`)
  }
}
