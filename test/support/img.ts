/** Runs `varve img` inside the test and the real qemu-img beside it, each in a folder of its own. */
import { execFile } from 'node:child_process'
import { copyFileSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { PassThrough, Writable } from 'node:stream'
import { expect } from 'vitest'
import type { CliIo } from '../../src/cli/command.ts'
import { img } from '../../src/cli/img/main.ts'
import type { Outcome } from '../peers.ts'

/** Two folders, in which the same commands are run by either program. */
export class Pair implements Disposable {
  readonly ours: string
  readonly theirs: string
  readonly #root: string

  constructor() {
    this.#root = mkdtempSync(join(tmpdir(), 'varve-img-'))
    this.ours = mkdtempSync(join(this.#root, 'o'))
    this.theirs = mkdtempSync(join(this.#root, 'q'))
  }

  /** Makes or changes an image with a program of QEMU, and gives both folders the same one. */
  async prepare(program: string, ...args: string[]): Promise<void> {
    const outcome = await runTheirs(this.theirs, args, program)
    if (outcome.status !== 0 || outcome.stderr) throw new Error(`${program}: ${outcome.stderr}`)
    const image = args.findLast((word) => /^\w+\.(qcow2|raw)$/.test(word)) ?? ''
    copyFileSync(`${this.theirs}/${image}`, `${this.ours}/${image}`)
  }

  /**
   * Runs one command line in both folders, given whole (words between spaces, '' an empty one) or in
   * words, and expects the same answer of both programs. Returns the exit status.
   */
  async same(command: string | readonly string[]): Promise<number> {
    const args = typeof command === 'string' ? wordsOf(command) : command
    const ours = await runOurs(this.ours, args)
    const theirs = await runTheirs(this.theirs, args)
    const result = ({ stdout, ...rest }: Outcome) => ({
      command,
      ...rest,
      stdout: timeless(stdout),
    })
    expect(result(ours)).toEqual(result(theirs))
    return ours.status
  }

  [Symbol.dispose](): void {
    rmSync(this.#root, { recursive: true, force: true })
  }
}

function wordsOf(line: string): string[] {
  return line.split(' ').map((word) => (word === "''" ? '' : word))
}

function timeless(shown: string): string {
  return shown.replace(/in \d+\.\d+ seconds/, 'in T seconds')
}

/** Runs `varve img` with `folder` as current directory; one at a time. */
export async function runOurs(folder: string, args: readonly string[]): Promise<Outcome> {
  const before = process.cwd()
  const stdout = new Collector()
  const stderr = new Collector()
  process.chdir(folder)
  try {
    const io: CliIo = { stdin: new PassThrough(), stdout, stderr, env: process.env, cwd: folder }
    const status = await img([...args], io)
    return { status, stdout: stdout.text, stderr: asQemu(stderr.text) }
  } finally {
    process.chdir(before)
  }
}

/** Runs a program of QEMU with `folder` as current directory. */
export async function runTheirs(
  folder: string,
  args: readonly string[],
  program = 'qemu-img',
): Promise<Outcome> {
  for (let tries = 1; ; tries++) {
    const outcome = await runPeer(folder, args, program)
    // It times the derivation of keys by the clock of its thread, and gives up where that stood still.
    const stoodStill = outcome.stderr.includes('Unable to get accurate CPU usage')
    if (!stoodStill || tries === 5) return outcome
  }
}

function runPeer(folder: string, args: readonly string[], program: string): Promise<Outcome> {
  return new Promise((resolve) => {
    const options = { cwd: folder, timeout: 60_000, maxBuffer: 256 * 1024 * 1024 }
    const child = execFile(program, args, options, (_, stdout, stderr) =>
      resolve({ status: child.exitCode ?? -1, stdout, stderr }),
    )
    child.stdin?.end()
  })
}

/** Our messages as they would be with the name of the other program. */
function asQemu(text: string): string {
  return text.replaceAll('varve-img', 'qemu-img')
}

class Collector extends Writable {
  text = ''

  override _write(bytes: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.text += bytes.toString()
    done()
  }
}
