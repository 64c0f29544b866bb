/** The same line of qemu-nbd for both programs, and the same clients one after the other. */

import { type ChildProcess, execFile, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { main } from '../main.ts'
import { bring, changed, difference, listing } from './left-behind.ts'
import type { Serving } from './nbd-serving.ts'
import { type Answer, comparable } from './programs.ts'

export interface Served {
  /** Of the clients, in their order; and whether the server was there afterwards. */
  readonly clients: readonly (Answer & { readonly serverEnded: boolean })[]
  /** Of the server, which got SIGTERM where it had not ended by itself. */
  readonly server: Answer
  /** Whether the socket is still there. */
  readonly socketLeft: boolean
}

const patienceMs = 20_000

/** How long a server without clients is given to end. */
const lingerMs = 1500

/** Two folders that are kept alike, and the same line in both. */
export class ServingTrial {
  readonly #folders: readonly [string, string]
  readonly #pool: string

  /** `pool` is a world that stays as it is; `folder` is for copies of it. */
  constructor(folder: string, pool: string) {
    this.#folders = [join(folder, 'o'), join(folder, 'q')]
    this.#pool = pool
  }

  /** The world as it was at first. */
  renew(): void {
    for (const folder of this.#folders) {
      rmSync(folder, { recursive: true, force: true })
      mkdirSync(folder, { recursive: true })
      execFileSync('cp', ['-a', `${this.#pool}/.`, folder])
    }
  }

  /** What both answered, and what of the files differs. Afterwards both folders are alike. */
  async run(line: Serving): Promise<{ ours: Served; theirs: Served; files?: string }> {
    const [mine, other] = this.#folders
    const before = this.#folders.map(listing)
    const [ours, theirs] = await Promise.all([
      serve('ours', mine, line),
      serve('theirs', other, line),
    ])
    const touched = this.#folders.flatMap((folder, at) => changed(before[at], listing(folder)))
    const names = [...new Set(touched)].filter((name) => name !== pidFile)
    const files = await this.#filesOf(names)
    bring(names, other, mine)
    // A copy may have holes where the original has none; now both are copies.
    bring(names, mine, other)
    return { ours, theirs, files }
  }

  async #filesOf(names: readonly string[]): Promise<string | undefined> {
    for (const name of names) {
      const found = await difference(name, ...this.#folders, ['info', 'check'])
      if (found !== undefined) return `${name}: ${found}`
    }
    return undefined
  }
}

/** Says something else each time. */
const pidFile = 'pid'

async function serve(whose: 'ours' | 'theirs', folder: string, serving: Serving): Promise<Served> {
  const socket = join(folder, 'socket')
  const real = (words: readonly string[]) => words.map((word) => word.replaceAll('SOCKET', socket))
  const server = start(whose, folder, real(serving.words))
  const clients: Served['clients'][number][] = []
  const up = await until(() => existsSync(socket) || server.ended(), patienceMs)
  if (up && !server.ended()) {
    for (const { program, words } of serving.clients) {
      const answer = await client(program, real(words), folder)
      // Their end is not told to the server at once.
      await until(server.ended, serving.persistent ? 20 : lingerMs)
      clients.push({ ...settled(answer, folder), serverEnded: server.ended() })
    }
  }
  const last = await server.end()
  const socketLeft = existsSync(socket)
  rmSync(socket, { force: true })
  return { clients, server: settled(last, folder), socketLeft }
}

function settled({ status, stdout, stderr }: Answer, folder: string): Answer {
  const plain = (text: string) => text.replaceAll(folder, 'FOLDER')
  return comparable({ status, stdout: plain(stdout), stderr: plain(stderr) })
}

async function until(reached: () => boolean, limitMs: number): Promise<boolean> {
  const end = performance.now() + limitMs
  while (!reached() && performance.now() < end) await sleep(5)
  return reached()
}

function start(whose: 'ours' | 'theirs', cwd: string, words: readonly string[]) {
  const [program, args] =
    whose === 'ours' ? [process.execPath, [main, 'nbd', ...words]] : ['qemu-nbd', [...words]]
  const env = { ...process.env, LC_ALL: 'C' }
  const child = spawn(program, args, { cwd, env, stdio: ['ignore', 'pipe', 'pipe'] })
  let [stdout, stderr] = ['', '']
  child.stdout.on('data', (text) => {
    stdout += text
  })
  child.stderr.on('data', (text) => {
    stderr += text
  })
  const closed = once(child, 'close')
  return {
    ended: () => hasEnded(child),
    async end(): Promise<Answer> {
      if (!hasEnded(child)) child.kill('SIGTERM')
      const late = setTimeout(() => child.kill('SIGKILL'), patienceMs)
      await closed
      clearTimeout(late)
      return { status: child.exitCode ?? child.signalCode ?? '?', stdout, stderr }
    },
  }
}

const hasEnded = ({ exitCode, signalCode }: ChildProcess) =>
  exitCode !== null || signalCode !== null

function client(program: string, args: readonly string[], cwd: string): Promise<Answer> {
  return new Promise((resolve) => {
    const env = { ...process.env, LC_ALL: 'C' }
    const child = execFile(program, args, { cwd, env, timeout: patienceMs }, (_, stdout, stderr) =>
      resolve({ status: child.exitCode ?? child.signalCode ?? '?', stdout, stderr }),
    )
    child.stdin?.on('error', () => {})
    child.stdin?.end()
  })
}
