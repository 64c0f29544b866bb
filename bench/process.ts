/** Running programs and measuring them from outside. */
import { type ChildProcess, spawn } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { stat } from 'node:fs/promises'
import path from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'

export const root = path.resolve(import.meta.dirname, '..')

/** A launcher of ours: `varve('img')` is `bin/varve-img`. */
export function varve(tool: 'img' | 'nbd' | 'io' | 'snap' | 'storage-daemon'): string {
  return path.join(root, 'bin', `varve-${tool}`)
}

export interface Finished {
  readonly seconds: number
  /** Bytes; largest resident set seen. */
  readonly peakMemory: number
  readonly stdout: string
}

/** Runs a program to its end; throws when it fails. */
export async function run(program: string, args: readonly string[]): Promise<Finished> {
  const began = performance.now()
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  const [stdout, stderr] = [collect(child.stdout), collect(child.stderr)]
  let peakMemory = 0
  const poll = setInterval(() => {
    peakMemory = Math.max(peakMemory, residentPeak(child.pid))
  }, 10)
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', resolve)
  }).finally(() => clearInterval(poll))
  const seconds = (performance.now() - began) / 1000
  if (code !== 0) throw new Error(`${program} ${args.join(' ')} exited with ${code}: ${stderr()}`)
  return { seconds, peakMemory, stdout: stdout() }
}

/** Starts a server; resolves once the file is there by which it can be told, its Unix socket or its pidfile. */
export async function serve(program: string, args: readonly string[], sign: string) {
  const child = spawn(program, args, { stdio: ['ignore', 'inherit', 'inherit'] })
  for (let tries = 0; !(await exists(sign)); tries++) {
    if (child.exitCode !== null || tries > 500) throw new Error(`${program} did not start`)
    await sleep(10)
  }
  return { [Symbol.asyncDispose]: () => stop(child) }
}

async function stop(child: ChildProcess): Promise<void> {
  const ended = new Promise((resolve) => child.once('exit', resolve))
  child.kill('SIGTERM')
  await ended
}

async function exists(file: string): Promise<boolean> {
  return await stat(file).then(
    () => true,
    () => false,
  )
}

function collect(stream: NodeJS.ReadableStream): () => string {
  const chunks: Buffer[] = []
  stream.on('data', (chunk: Buffer) => chunks.push(chunk))
  return () => Buffer.concat(chunks).toString()
}

/** The high-water mark of a process's resident memory, in bytes. */
function residentPeak(pid: number | undefined): number {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'latin1')
    return Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0) * 1024
  } catch {
    // It has just ended.
    return 0
  }
}
