/**
 * The same command line through a peer and through varve, each in a folder of its own with the
 * same files, so that relative names and what is left on disk can be compared too.
 */

import { execFile } from 'node:child_process'
import { cpSync, mkdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'vitest'
import { main } from './main.ts'

export interface Told {
  readonly status: number
  readonly stdout: string
  readonly stderr: string
}

export class Twins {
  readonly #folder: string
  readonly ours: string
  readonly theirs: string

  /** `seed` is a folder of files that both begin with. */
  constructor(folder: string, name: string, seed: string) {
    this.#folder = join(folder, name)
    this.ours = join(this.#folder, 'varve')
    this.theirs = join(this.#folder, 'qemu')
    for (const own of [this.ours, this.theirs]) {
      mkdirSync(own, { recursive: true })
      cpSync(seed, own, { recursive: true })
    }
  }

  /** Runs `qemu-TOOL` and `varve TOOL`, and expects the same of both. Returns what they said. */
  async same(tool: 'io' | 'img', args: readonly string[]): Promise<Told> {
    const [theirs, ours] = await this.both(tool, args)
    expect(ours, `${tool} ${args.join(' ')}`).toEqual(theirs)
    return ours
  }

  async both(tool: 'io' | 'img', args: readonly string[]): Promise<[Told, Told]> {
    return await Promise.all([
      run(`qemu-${tool}`, args, this.theirs),
      run(process.execPath, [main, tool, ...args], this.ours),
    ])
  }

  /** Expects a file to hold the same bytes for both. */
  sameFile(name: string): void {
    const ours = readFileSync(join(this.ours, name))
    const theirs = readFileSync(join(this.theirs, name))
    expect(ours.equals(theirs), `${name} differs`).toBe(true)
  }
}

function run(program: string, args: readonly string[], cwd: string): Promise<Told> {
  return new Promise((resolve, reject) => {
    const env = { ...process.env, NODE_NO_WARNINGS: '1', LC_ALL: 'C' }
    const options = { cwd, env, timeout: 60_000, maxBuffer: 64 * 1024 * 1024 }
    const child = execFile(program, args, options, (error, stdout, stderr) => {
      if (error && typeof error.code === 'string') reject(error)
      else resolve(comparable({ status: child.exitCode ?? -1, stdout, stderr }))
    })
    child.stdin?.end()
  })
}

/** Without times and rates, and with one name for both programs. */
function comparable({ status, stdout, stderr }: Told): Told {
  return {
    status,
    stdout: stdout.replaceAll(/(?:\d\d\.\d\d sec|\d+:\d\d:\d\d\.\d\d) \(.*\)/g, 'TIME'),
    stderr: stderr.replaceAll(/^varve-(io|img): /gm, 'qemu-$1: '),
  }
}
