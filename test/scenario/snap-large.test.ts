/** Saving and loading much RAM: through the page cache and past it, and with how much memory. */

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { open, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { beforeAll, describe, expect, it } from 'vitest'
import { scratchFolder } from '../support/folder.ts'
import { writeCapture } from '../support/large-capture.ts'
import { main } from '../support/main.ts'
import { runVarve } from '../support/programs.ts'

const MiB = 1024 * 1024
const folder = scratchFolder('snap-large')
const at = (name: string) => join(folder, name)

/** Runs with files as standard input and output; resolves to the most memory that was seen. */
async function run(input: string, output: string, ...args: string[]): Promise<number> {
  const [from, to] = [await open(input), await open(output, 'w')]
  const child = spawn(process.execPath, [main, 'snap', ...args], {
    stdio: [from.fd, to.fd, 'pipe'],
  })
  let complaints = ''
  child.stderr?.on('data', (chunk) => {
    complaints += chunk
  })
  let most = 0
  const watch = setInterval(() => {
    most = Math.max(most, residentPeak(child.pid))
  }, 10)
  const [status] = await once(child, 'close')
  clearInterval(watch)
  await Promise.all([from.close(), to.close()])
  if (status !== 0) throw new Error(complaints)
  return most
}

/** Bytes; 0 when it has just ended. */
function residentPeak(pid: number | undefined): number {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'latin1')
    return Number(/VmHWM:\s+(\d+)/.exec(status)?.[1] ?? 0) * 1024
  } catch {
    return 0
  }
}

describe('half a gigabyte of RAM', () => {
  const capture = at('capture')
  const image = at('image.qcow2')

  beforeAll(() => writeCapture(capture, { size: 512 * MiB, filled: 0.2 }), 120_000)

  it('is saved and loaded with little memory', async () => {
    // Node itself takes 60 to 90 MB with the source of all drivers.
    const saving = await run(capture, '/dev/null', '-s', '2G', '--no-description', 'save', image)
    expect(saving).toBeLessThan(180 * MiB)
    const loaded = at('loaded')
    expect(await run('/dev/null', loaded, 'load', image)).toBeLessThan(180 * MiB)
    // The same pages, in sections of other lengths.
    expect((await stat(loaded)).size).toBeGreaterThan(60 * MiB)
    await run(loaded, '/dev/null', '-s', '2G', '--no-description', 'save', at('again.qcow2'))
    const { status, stdout, stderr } = await runVarve(['snap', 'diff', image, at('again.qcow2')])
    expect([status, stdout.toString(), stderr]).toEqual([0, '', ''])
    await rm(loaded)
  })

  it('goes past the page cache', async ({ skip }) => {
    const direct = at('direct.qcow2')
    const options = ['--cache=none', '--aio=native']
    const words = ['-s', '2G', '--no-description', ...options, 'save', direct]
    const saved = await run(capture, '/dev/null', ...words).catch((error: Error) => error)
    if (saved instanceof Error && saved.message.includes('O_DIRECT')) return skip(saved.message)
    expect(saved).toBeLessThan(180 * MiB)
    await run('/dev/null', at('loaded'), ...options, 'load', direct)
    const { status } = await runVarve(['snap', 'diff', image, direct])
    expect(status).toBe(0)
    expect((await runVarve(['snap', '-n', 'verify', direct])).status).toBe(0)
  })
})
