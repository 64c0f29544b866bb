/** The two programs that a random command line is given to, and what they answer, made comparable. */
import { execFile } from 'node:child_process'
import { PassThrough, Writable } from 'node:stream'
import type { CliIo } from '../../../src/cli/command.ts'
import { img } from '../../../src/cli/img/main.ts'
import { run as io } from '../../../src/cli/io.ts'
import { run as nbd } from '../../../src/cli/nbd.ts'

export type Tool = 'img' | 'io' | 'nbd'

const commands = { img, io, nbd }

export interface Answer {
  /** Exit status, or the signal that ended it, or that it never ended. */
  readonly status: number | string
  readonly stdout: string
  readonly stderr: string
}

/** Longer than any of the lines takes. */
const patienceMs = 20_000

/** Runs varve in this process, with `folder` as current directory; one at a time. */
export async function ours(tool: Tool, folder: string, args: readonly string[]): Promise<Answer> {
  const before = process.cwd()
  const stdout = new Collector()
  const stderr = new Collector()
  const stdin = new PassThrough()
  stdin.end()
  process.chdir(folder)
  let timer: NodeJS.Timeout | undefined
  try {
    const streams: CliIo = { stdin, stdout, stderr, env: process.env, cwd: folder }
    const late = new Promise<string>((resolve) => {
      timer = setTimeout(resolve, patienceMs, 'never ends')
    })
    const status = await Promise.race([commands[tool]([...args], streams), late])
    return { status, stdout: stdout.text, stderr: stderr.text }
  } catch (error) {
    const told = error instanceof Error ? (error.stack ?? error.message) : String(error)
    return { status: 'threw', stdout: stdout.text, stderr: `${stderr.text}\n${told}` }
  } finally {
    clearTimeout(timer)
    process.chdir(before)
  }
}

/** Runs a program of QEMU. */
export function theirs(tool: Tool, folder: string, args: readonly string[]): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const env = { ...process.env, LC_ALL: 'C' }
    const options = { cwd: folder, env, timeout: patienceMs, maxBuffer: 64 * 1024 * 1024 }
    const child = execFile(`qemu-${tool}`, args, options, (error, stdout, stderr) => {
      if (error && typeof error.code === 'string') reject(error)
      else resolve({ status: child.exitCode ?? child.signalCode ?? '?', stdout, stderr })
    })
    child.stdin?.on('error', () => {})
    child.stdin?.end()
  })
}

/** Without what differs from run to run, and with one name for both programs. */
export function comparable({ status, stdout, stderr }: Answer): Answer {
  return { status, stdout: settled(stdout), stderr: settled(stderr) }
}

const unsettled: readonly (readonly [RegExp, string])[] = [
  [/varve-(img|io|nbd)/g, 'qemu-$1'],
  // Texts of our own, documented.
  [/^usage: qemu-img[\s\S]*$/, 'HELP\n'],
  [/^qemu-img version [\s\S]*$/, 'HELP\n'],
  [/^qemu-io version [\s\S]*$/, 'HELP\n'],
  [/^Usage: qemu-io [\s\S]*$/, 'HELP\n'],
  [/^qemu-nbd .*version [\s\S]*$/, 'HELP\n'],
  [/^Usage: qemu-nbd [\s\S]*$/, 'HELP\n'],
  // Times and rates.
  [/(?:\d\d\.\d\d sec|\d+:\d\d:\d\d\.\d\d) \(.*\)/g, 'TIME'],
  [/^(\d+,1),[\d:.,]+$/gm, '$1,TIME'],
  [/in \d+\.\d+ seconds/g, 'in T seconds'],
  [/\d{4}-\d\d-\d\d \d\d:\d\d:\d\d/g, 'DATE'],
  [/"date-n?sec": \d+/g, '"date": 0'],
  // Steps of our own, documented.
  [/ *\(\d+\.\d\d\/100%\)[\r\n]/g, ''],
  // What a file system made of the same holes.
  [/disk size: .*/g, 'disk size: D'],
  [/#block\d+/g, '#blockN'],
  // A hint of qemu-img's ends without the end of its line.
  [/(Detected format of \w+\.)\n?$/g, '$1'],
  [/"actual-size": \d+/g, '"actual-size": 0'],
]

function settled(text: string): string {
  return unsettled.reduce((so, [pattern, to]) => so.replaceAll(asGlobal(pattern), to), text)
}

function asGlobal(pattern: RegExp): RegExp {
  return pattern.global ? pattern : new RegExp(pattern, `${pattern.flags}g`)
}

class Collector extends Writable {
  text = ''

  override _write(bytes: Buffer, _: BufferEncoding, done: () => void): void {
    this.text += bytes.toString()
    done()
  }
}
