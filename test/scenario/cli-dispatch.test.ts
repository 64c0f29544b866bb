/** `varve` as a process: which command runs, and an end of output that nobody reads. */

import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { describe, expect, it } from 'vitest'
import { main } from '../support/main.ts'

function varve(...args: string[]) {
  return new Promise<{ status: number | null; stdout: string; stderr: string }>((resolve) => {
    const child = execFile(process.execPath, [main, ...args], (_, stdout, stderr) =>
      resolve({ status: child.exitCode, stdout, stderr }),
    )
  })
}

describe('varve', () => {
  it('names its version', async () => {
    expect(await varve('--version')).toMatchObject({
      status: 0,
      stdout: expect.stringMatching(/^varve \d+\.\d+\.\d+\n$/),
    })
  })

  it('lists its commands', async () => {
    const { status, stdout } = await varve('--help')
    expect(status).toBe(0)
    expect(stdout).toMatch(/^ {2}img +create, convert/m)
  })

  it.each([
    [[], "varve: no command given; 'varve --help' lists the commands\n"],
    [['foo'], "varve: unknown command 'foo'; 'varve --help' lists the commands\n"],
    [['toString'], "varve: unknown command 'toString'; 'varve --help' lists the commands\n"],
  ])('refuses %j in one line', async (args, stderr) => {
    expect(await varve(...args)).toEqual({ status: 1, stdout: '', stderr })
  })

  it('refuses by name what img cannot do', async () => {
    expect(await varve('img', 'mend', 'x')).toEqual({
      status: 1,
      stdout: '',
      stderr: "varve-img: Command not found: mend\nTry 'varve-img --help' for more information\n",
    })
  })

  it('ends quietly when nobody reads', async () => {
    const child = spawn(process.execPath, [main, 'img', '--help'], {
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    child.stdout.destroy()
    let stderr = ''
    child.stderr.on('data', (text) => {
      stderr += text
    })
    const [status] = await once(child, 'close')
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
  })
})
