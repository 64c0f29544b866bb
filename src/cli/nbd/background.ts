/** `--fork`: the server runs in a process of its own, and the first returns when it is running. */
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { NamedIo } from '../command.ts'

/** Marks the process that was made for serving. */
const marker = 'VARVE_NBD_BACKGROUND'

/** Whether this is that process. */
export function inBackground({ env }: NamedIo): boolean {
  return env[marker] === '1' && process.send !== undefined
}

/** Starts the server; resolves to the exit status: 0 when it runs, its own when it does not. */
export function startInBackground(args: readonly string[], io: NamedIo): Promise<number> {
  const extension = import.meta.url.endsWith('.ts') ? 'ts' : 'js'
  const main = fileURLToPath(new URL(`../main.${extension}`, import.meta.url))
  const child = spawn(process.execPath, [...process.execArgv, main, 'nbd', ...args], {
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

/** Tells the first process that it can return. */
export function reportRunning(): void {
  process.send?.('running')
  process.disconnect?.()
}
