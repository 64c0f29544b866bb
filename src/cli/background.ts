/**
 * Running on in the background: the command runs in a process of its own, in a session of its
 * own, and the first one returns when that one says that it is up, or has failed.
 */
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { CliIo } from './command.ts'

/** Marks the process that was made for running on. */
const marker = 'VARVE_BACKGROUND'

/** Whether this is that process. */
export function inBackground({ env }: CliIo): boolean {
  return env[marker] === '1' && process.send !== undefined
}

/** Starts `varve command args`; resolves to 0 when it runs, to its exit status when it does not. */
export function startInBackground(
  command: string,
  args: readonly string[],
  io: CliIo,
): Promise<number> {
  // As source, as the library has it, or beside the main file of the built tools.
  const [extension] = /\w+$/.exec(import.meta.url) ?? []
  const main = fileURLToPath(new URL(`./main.${extension}`, import.meta.url))
  const child = spawn(process.execPath, [...process.execArgv, main, command, ...args], {
    cwd: io.cwd,
    env: { ...io.env, [marker]: '1' },
    detached: true,
    stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
  })
  child.stderr?.on('data', (text) => io.stderr.write(text))
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (status) => resolve(status ?? 1))
    child.once('message', () => {
      child.disconnect()
      child.unref()
      child.stderr?.destroy()
      resolve(0)
    })
  })
}

/** In the background: tells the first process that it can return. */
export function reportRunning(): void {
  process.send?.('running')
  process.disconnect?.()
  // Nobody reads messages from now on.
  process.stderr.on('error', () => {})
}
