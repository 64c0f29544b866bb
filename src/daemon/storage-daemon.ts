/**
 * The storage daemon: a graph, its jobs, its exports, and the monitors that command them. It is a
 * class, so that a program can have one inside; `varve daemon` is such a program.
 *
 * ```ts
 * await using daemon = new StorageDaemon()
 * await daemon.execute('blockdev-add', { driver: 'null-co', 'node-name': 'disk0' })
 * const session = daemon.serve(socket)
 * ```
 */
import type { Duplex } from 'node:stream'
import { drivers } from '../drivers.ts'
import { BlockError } from '../errors.ts'
import { Graph, type GraphOptions } from '../graph/graph.ts'
import { JobTable } from '../job/job-table.ts'
import { ArchiveBackups } from './archive-backups.ts'
import { ChardevTable, type Stdio } from './chardev/table.ts'
import type { Command } from './command.ts'
import { commands } from './commands/table.ts'
import { reportCorruption } from './corruption-events.ts'
import { QmpError } from './errors.ts'
import { ExportTable } from './exports.ts'
import { reportJobs } from './job-events.ts'
import { MonitorSession } from './monitor-session.ts'
import { reportNodes } from './node-events.ts'
import { ObjectTable } from './objects.ts'
import { check } from './schema/check.ts'

export interface StorageDaemonOptions extends Partial<GraphOptions> {
  /** What a character device of type `stdio` is; those of the process unless given. */
  readonly stdio?: Stdio
}

const processStdio: Stdio = () => ({ input: process.stdin, output: process.stdout })

export class StorageDaemon implements AsyncDisposable {
  readonly graph: Graph
  readonly jobs = new JobTable()
  readonly exports: ExportTable
  readonly backups: ArchiveBackups
  readonly objects = new ObjectTable()
  readonly chardevs: ChardevTable
  readonly commands: ReadonlyMap<string, Command> = commands
  /** Settles when `quit` was called, by a monitor or by the program. */
  readonly quitting: Promise<void>
  readonly #quit: () => void
  readonly #endReports: () => void
  readonly #ending = new AbortController()
  readonly #sessions = new Set<MonitorSession>()
  /** The last of the commands that run one at a time. */
  #turn: Promise<unknown> = Promise.resolve()
  #closed: Promise<void> | undefined

  constructor({ stdio = processStdio, ...options }: StorageDaemonOptions = {}) {
    const secrets = async (id: string) => this.objects.secret(id)
    const throttleGroup = (id: string) => this.objects.throttleGroup(id)
    const tlsCredentials = (id: string) => this.objects.tlsCredentials(id, 'client')
    this.graph = new Graph({ drivers, secrets, throttleGroup, tlsCredentials, ...options })
    this.exports = new ExportTable(this.graph, (id) => this.emit('BLOCK_EXPORT_DELETED', { id }))
    this.backups = new ArchiveBackups(this.graph, this.jobs)
    let quit = () => {}
    this.quitting = new Promise((resolve) => {
      quit = resolve
    })
    this.#quit = quit
    this.chardevs = new ChardevTable(stdio, this.objects, this.signal, quit)
    reportJobs(this.jobs, (event, data) => this.emit(event, data))
    const emit = (event: string, data: Readonly<Record<string, unknown>>) => this.emit(event, data)
    const reports = [reportCorruption(this.graph, emit), reportNodes(this.graph, emit)]
    this.#endReports = () => {
      for (const end of reports) end()
    }
  }

  /**
   * Runs a command. Throws `INVALID_ARGUMENT` when the arguments are not as declared, and whatever
   * the command itself throws.
   */
  async execute(name: string, args: unknown = {}, session?: MonitorSession): Promise<unknown> {
    const command = this.commands.get(name)
    if (!command) throw new QmpError('CommandNotFound', `The command ${name} has not been found`)
    const run = () => command.run(check(command.args, args) as never, { daemon: this, session })
    return await (command.concurrent ? run() : this.exclusively(run))
  }

  /** Fires when the daemon ends: what a command waits for then will not be needed. */
  get signal(): AbortSignal {
    return this.#ending.signal
  }

  /** Runs `work` when all commands before it are done, as the next one. */
  exclusively<T>(work: () => T | Promise<T>): Promise<T> {
    const result = this.#turn.then(() => {
      this.signal.throwIfAborted()
      return work()
    })
    this.#turn = result.catch(() => {})
    return result
  }

  /** Serves a client of a monitor until it leaves; the returned promise tells when. */
  async serve(connection: Duplex, options: { readonly pretty?: boolean } = {}): Promise<void> {
    const session = new MonitorSession(this, connection, options)
    this.#sessions.add(session)
    try {
      await session.run()
    } finally {
      this.#sessions.delete(session)
    }
  }

  /** A monitor for the clients of a character device. */
  addMonitor(chardev: string, options: { readonly pretty?: boolean } = {}): void {
    this.chardevs.attach(chardev, (client) => this.serve(client, options))
  }

  /** Tells all monitors. */
  emit(event: string, data: Readonly<Record<string, unknown>>): void {
    const microseconds = Math.floor((performance.timeOrigin + performance.now()) * 1000)
    const timestamp = {
      seconds: Math.floor(microseconds / 1e6),
      microseconds: microseconds % 1e6,
    }
    for (const session of this.#sessions) session.notify({ timestamp, event, data })
  }

  quit(): void {
    this.#quit()
  }

  /** Cancels the jobs, ends the exports, closes the nodes, and then the monitors. Idempotent. */
  [Symbol.asyncDispose](): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    this.quit()
    this.#ending.abort(new BlockError('CLOSED', 'the daemon is ending'))
    const failures: unknown[] = []
    const attempt = async (work: () => void | Promise<void>) => {
      try {
        await work()
      } catch (error) {
        failures.push(error)
      }
    }
    this.backups.cancel()
    await this.#turn
    await attempt(() => this.jobs.cancelAll())
    await attempt(() => this.exports[Symbol.asyncDispose]())
    await attempt(() => this.graph[Symbol.asyncDispose]())
    this.#endReports()
    for (const session of this.#sessions) session.close()
    await attempt(() => this.chardevs[Symbol.asyncDispose]())
    if (failures.length > 0) throw failures[0]
  }
}
