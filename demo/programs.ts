/** varve's own programs, run as a user runs them. */
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

export const repository = fileURLToPath(new URL('..', import.meta.url))
const varve = join(repository, 'bin/varve')

export interface Ended {
  readonly status: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Programs that were started and have not ended; `endAll` leaves none behind. */
const running = new Set<ChildProcess>()

/** Starts `varve …`; `onLine` gets each line of its standard output. */
export function start(args: readonly string[], onLine?: (line: string) => void) {
  const child = spawn(varve, args, { stdio: ['ignore', 'pipe', 'pipe'] })
  running.add(child)
  const output = { stdout: '', stderr: '' }
  let line = ''
  child.stdout.on('data', (chunk) => {
    output.stdout += chunk
    const lines = `${line}${chunk}`.split('\n')
    line = lines.pop()!
    for (const each of lines) onLine?.(each)
  })
  child.stderr.on('data', (chunk) => {
    output.stderr += chunk
  })
  const ended = once(child, 'close').then(([status]): Ended => {
    running.delete(child)
    return { status, ...output }
  })
  return { child, ended }
}

/** Runs `varve …` to its end; throws with what it said when it failed. */
export async function run(args: readonly string[], onLine?: (line: string) => void) {
  const ended = await start(args, onLine).ended
  if (ended.status === 0) return ended
  throw new Error(`varve ${args[0]} ended with ${ended.status}: ${ended.stderr.trim()}`)
}

/** Asks what is still running to end, and makes what does not. */
export async function endAll(): Promise<void> {
  const left = [...running]
  for (const child of left) child.kill('SIGTERM')
  const patience = setTimeout(() => {
    for (const child of left) child.kill('SIGKILL')
  }, 5000)
  await Promise.all(left.map((child) => child.exitCode ?? once(child, 'close')))
  clearTimeout(patience)
}
