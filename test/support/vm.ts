/**
 * A real QEMU with the guest that checks its own memory (`test/images/guest.S`): it prints a
 * counter and `.` on its serial port, or `X` once a page of its RAM is not what it should be.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { afterEach } from 'vitest'
import { QmpClient, type QmpEvent } from '../../src/wire/qmp/client.ts'
import { type Peer, peer } from '../peers.ts'

export const qemuSystem = peer('qemu-system-x86_64')

const images = fileURLToPath(new URL('../images/', import.meta.url))
const running = new Set<ChildProcess>()

afterEach(async () => {
  for (const child of running) {
    child.kill('SIGKILL')
    if (child.exitCode === null && child.signalCode === null) await once(child, 'close')
  }
  running.clear()
})

export interface VmOptions {
  readonly folder: string
  readonly name: string
  /** `guest` keeps the pages that it wrote, `guest2` makes some of them zero again. */
  readonly guest?: 'guest' | 'guest2'
  /** In front of the usual ones, or instead of them: `-m`, `-machine`. */
  readonly args?: readonly string[]
  readonly memory?: number
  readonly incoming?: string
  /** Another QEMU than the system's. */
  readonly qemu?: Peer
  /** Value of `-drive` for the disk that the guest boots from; a raw one is made otherwise. */
  readonly drive?: string
  /** Further descriptors, from 3 on, as `spawn` takes them. */
  readonly stdio?: readonly ('pipe' | number)[]
  readonly env?: Readonly<Record<string, string>>
}

export class Vm implements AsyncDisposable {
  readonly qmp: QmpClient
  readonly child: ChildProcess
  readonly monitor: string
  readonly events: QmpEvent[] = []
  readonly #serial: string
  readonly #output: () => string

  private constructor(
    qmp: QmpClient,
    child: ChildProcess,
    monitor: string,
    serial: string,
    output: () => string,
  ) {
    this.qmp = qmp
    this.child = child
    this.monitor = monitor
    this.#serial = serial
    this.#output = output
    qmp.on('event', (event) => this.events.push(event))
  }

  static async start(options: VmOptions): Promise<Vm> {
    const { folder, name, guest = 'guest', qemu = qemuSystem } = options
    const disk = join(folder, `${name}.raw`)
    const serial = join(folder, `${name}.serial`)
    // Two monitors: one of the test, one for the program under test.
    const own = join(folder, `${name}.test.sock`)
    const monitor = join(folder, `${name}.qmp`)
    await Promise.all([own, monitor, serial].map((path) => rm(path, { force: true })))
    if (options.drive === undefined) await bootDisk(disk, guest)
    const child = spawn(
      qemu.path ?? qemu.name,
      [
        ...['-accel', 'tcg', '-m', String(options.memory ?? 128), '-machine', 'pc'],
        ...['-nodefaults', '-display', 'none', '-serial', `file:${serial}`],
        ...['-drive', options.drive ?? `file=${disk},if=ide,format=raw,snapshot=on`],
        ...['-qmp', `unix:${own},server=on,wait=off`, '-qmp', `unix:${monitor},server=on,wait=off`],
        ...(options.incoming === undefined ? [] : ['-incoming', options.incoming]),
        ...(options.args ?? []),
      ],
      {
        stdio: ['ignore', 'pipe', 'pipe', ...(options.stdio ?? [])],
        env: { ...process.env, ...options.env },
      },
    )
    running.add(child)
    let output = ''
    for (const stream of [child.stdout, child.stderr]) {
      stream?.on('data', (chunk) => {
        output += chunk
      })
    }
    for (;;) {
      // The socket is there a moment before anybody listens.
      const qmp = await QmpClient.connect(own).catch(() => undefined)
      if (qmp) return new Vm(qmp, child, monitor, serial, () => output)
      if (child.exitCode !== null) throw new Error(`QEMU ended with ${child.exitCode}: ${output}`)
      await sleep(10)
    }
  }

  /** What QEMU itself printed. */
  get output(): string {
    return this.#output()
  }

  /** Lines that the guest has printed. */
  async lines(): Promise<string[]> {
    const text = await readFile(this.#serial, 'latin1').catch(() => '')
    return text.split('\n').slice(0, -1)
  }

  /** Waits until the guest has printed so many lines more; none may tell of a wrong page. */
  async progress(lines: number, timeoutMs = 20_000): Promise<string[]> {
    const start = (await this.lines()).length
    const deadline = Date.now() + timeoutMs
    for (;;) {
      const found = await this.lines()
      if (found.some((line) => line.endsWith('X'))) throw new Error('the guest found a wrong page')
      if (found.length >= start + lines) return found
      if (Date.now() > deadline) {
        throw new Error(`the guest stands still after ${found.length} lines; ${this.output}`)
      }
      await sleep(10)
    }
  }

  async runState(): Promise<string> {
    const status = (await this.qmp.execute('query-status')) as { status: string }
    return status.status
  }

  async migration(): Promise<{ status?: string; 'error-desc'?: string; [name: string]: unknown }> {
    return (await this.qmp.execute('query-migrate')) as { status?: string }
  }

  /** Waits for one of the states of a migration. */
  async migrated(states: readonly string[], timeoutMs = 30_000): Promise<string> {
    const deadline = Date.now() + timeoutMs
    for (;;) {
      const { status } = await this.migration()
      if (status && states.includes(status)) return status
      if (Date.now() > deadline) throw new Error(`the migration is ${status}; ${this.output}`)
      await sleep(10)
    }
  }

  async capabilities(...names: string[]): Promise<void> {
    const capabilities = names.map((capability) => ({ capability, state: true }))
    await this.qmp.execute('migrate-set-capabilities', { capabilities })
  }

  /** Bytes of guest-physical memory; the guest should be paused. */
  async physical(folder: string, offset: number, length: number): Promise<Buffer> {
    const filename = join(folder, 'pmemsave')
    await this.qmp.execute('pmemsave', { val: offset, size: length, filename })
    return await readFile(filename)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.qmp[Symbol.asyncDispose]()
    const closed = this.child.exitCode === null && this.child.signalCode === null
    this.child.kill('SIGKILL')
    if (closed) await once(this.child, 'close')
    running.delete(this.child)
  }
}

/** A raw disk that the guest boots from. */
export async function bootDisk(path: string, guest: 'guest' | 'guest2' = 'guest'): Promise<void> {
  await writeFile(path, Buffer.concat([readFileSync(join(images, `${guest}.bin`))], 1024 * 1024))
}

/** The counter of a line. */
export function counterOf(line: string): number {
  return Number.parseInt(line.slice(0, 8), 16)
}
