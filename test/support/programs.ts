/** varve's programs as processes of their own, run from the source. */

import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach } from 'vitest'
import { QmpClient } from '../../src/wire/qmp/client.ts'
import { main } from './main.ts'

export interface Ended {
  /** 128 and its number when a signal ended it, as a shell counts. */
  readonly status: number
  readonly stdout: Buffer
  readonly stderr: string
}

export interface Started {
  readonly child: ChildProcess
  readonly ended: Promise<Ended>
  /** Settles when what was written so far, to either stream, matches. */
  saw(pattern: RegExp): Promise<void>
}

const running = new Set<ChildProcess>()

afterEach(async () => {
  for (const child of running) {
    child.kill('SIGCONT')
    child.kill('SIGKILL')
    if (child.exitCode === null && child.signalCode === null) await once(child, 'close')
  }
  running.clear()
})

export interface StartOptions {
  readonly env?: Readonly<Record<string, string>>
  readonly cwd?: string
  readonly input?: Uint8Array
}

/** Starts `varve …`; it is killed at the end of the test if it still runs. */
export function startVarve(args: readonly string[], options: StartOptions = {}): Started {
  const child = spawn(process.execPath, [main, ...args], {
    cwd: options.cwd,
    env: { ...process.env, ...options.env },
    stdio: 'pipe',
  })
  running.add(child)
  child.stdin.on('error', () => {})
  child.stdin.end(options.input)
  const output: Buffer[] = []
  let stderr = ''
  const watchers = new Set<() => void>()
  const changed = () => {
    for (const watch of watchers) watch()
  }
  child.stdout.on('data', (chunk: Buffer) => {
    output.push(chunk)
    changed()
  })
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk
    changed()
  })
  const ended = once(child, 'close').then(([code, signal]): Ended => {
    running.delete(child)
    const status = code ?? (signal === 'SIGINT' ? 130 : 137)
    return { status, stdout: Buffer.concat(output), stderr }
  })
  const saw = async (pattern: RegExp) => {
    const matches = () => pattern.test(Buffer.concat(output).toString('latin1') + stderr)
    if (matches()) return
    await new Promise<void>((resolve, reject) => {
      const watch = () => {
        if (!matches()) return
        watchers.delete(watch)
        resolve()
      }
      watchers.add(watch)
      void ended.then(() => {
        if (watchers.has(watch)) reject(new Error(`ended without ${pattern}: ${stderr}`))
      })
    })
  }
  return { child, ended, saw }
}

export async function runVarve(args: readonly string[], options: StartOptions = {}) {
  return await startVarve(args, options).ended
}

export interface Daemon extends Started {
  /** Of its monitor and its NBD server. */
  readonly monitor: string
  readonly nbd: string
  /** Sorted. */
  nodes(): Promise<string[]>
}

/** A daemon that exports each of the nodes under its own name, writable. */
export async function startDaemon(
  folder: string,
  nodes: readonly { readonly name: string; readonly options: string }[],
): Promise<Daemon> {
  const monitor = join(folder, 'qmp.sock')
  const nbd = join(folder, 'nbd.sock')
  const started = startVarve([
    'daemon',
    ...nodes.flatMap(({ name, options }) => ['--blockdev', `node-name=${name},${options}`]),
    '--nbd-server',
    `addr.type=unix,addr.path=${nbd}`,
    ...nodes.flatMap(({ name }) => [
      '--export',
      `type=nbd,id=${name},node-name=${name},name=${name},writable=on`,
    ]),
    '--chardev',
    `socket,id=qmp,path=${monitor},server=on,wait=off`,
    '--monitor',
    'chardev=qmp',
  ])
  let failed: Ended | undefined
  void started.ended.then((ended) => {
    failed = ended
  })
  while (!(await stat(monitor).catch(() => undefined))) {
    if (failed) throw new Error(`the daemon did not start: ${failed.stderr}`)
    await sleep(20)
  }
  return {
    ...started,
    monitor,
    nbd,
    async nodes() {
      await using client = await QmpClient.connect(monitor)
      const found = (await client.execute('query-named-block-nodes')) as { 'node-name': string }[]
      return found.map((node) => node['node-name']).sort()
    },
  }
}
