/**
 * Dirty bitmaps and allocation depth over NBD: what nbdinfo and qemu-img read from `varve nbd` is
 * what they read from qemu-nbd, and our client reads the same from either.
 */

import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { runOurs, runTheirs } from '../support/img.ts'
import { main } from '../support/main.ts'
import { Random, seedNote } from '../support/random.ts'

const nbdinfo = peer('nbdinfo', 'qemu-nbd', 'qemu-img', 'qemu-io')

const varve = [process.execPath, main, 'nbd']
const size = 6 * 1024 * 1024 + 512

nbdinfo.describe('dirty bitmaps over NBD', () => {
  const folder = scratchFolder('nbd-bitmaps')
  const servers: ChildProcess[] = []
  const ours = join(folder, 'ours.sock')
  const theirs = join(folder, 'theirs.sock')

  async function serve(command: readonly string[], socket: string): Promise<void> {
    const [program, ...args] = command
    const options = ['-t', '-r', '-A', '-B', 'fine', '-B', 'coarse', '-f', 'qcow2', '-k', socket]
    const child = spawn(program, [...args, ...options, 'top.qcow2'], { cwd: folder })
    servers.push(child)
    for (let left = 200; !existsSync(socket) && left > 0; left--) await sleep(20)
  }

  beforeAll(async () => {
    const random = new Random()
    const qemu = (...words: string[]) => execFileSync('qemu-img', words, { cwd: folder })
    const scribble = (image: string) => {
      for (let count = 0; count < 6; count++) {
        const [offset, length] = random.range(size, 512, 300_000)
        execFileSync('qemu-io', ['-c', `write -q ${offset} ${length}`, image], { cwd: folder })
      }
    }
    qemu('create', '-q', '-f', 'qcow2', 'base.qcow2', String(size))
    scribble('base.qcow2')
    qemu('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', 'top.qcow2')
    qemu('bitmap', '--add', '-g', '512', 'top.qcow2', 'fine')
    qemu('bitmap', '--add', 'top.qcow2', 'coarse')
    scribble('top.qcow2')
    await serve(varve, ours)
    await serve(['qemu-nbd', '-e', '4'], theirs)
  })

  afterAll(async () => {
    for (const child of servers) {
      if (child.exitCode !== null) continue
      const ended = once(child, 'exit')
      child.kill('SIGTERM')
      await ended
    }
  })

  const contexts = ['qemu:dirty-bitmap:fine', 'qemu:dirty-bitmap:coarse', 'qemu:allocation-depth']

  it(`nbdinfo reads the same maps (${seedNote})`, async () => {
    for (const context of contexts) {
      const map = (socket: string) =>
        nbdinfo.run(`--map=${context}`, `nbd+unix:///?socket=${socket}`)
      expect(await map(ours), context).toEqual(await map(theirs))
    }
    const list = async (socket: string) =>
      JSON.parse(await nbdinfo.run('--json', `nbd+unix:///?socket=${socket}`)).exports[0].contexts
    expect((await list(ours)).sort()).toEqual((await list(theirs)).sort())
  })

  it(`img map reads a bitmap as qemu-img does, from either server (${seedNote})`, async () => {
    for (const context of contexts.slice(0, 2)) {
      const options = (socket: string) =>
        `driver=nbd,server.type=unix,server.path=${socket},x-dirty-bitmap=${context}`
      for (const output of ['json', 'human']) {
        const words = (socket: string) => [
          ...['map', `--output=${output}`, '--image-opts', options(socket)],
        ]
        const wanted = await runTheirs(folder, words(theirs))
        expect(wanted.status).toBe(0)
        const text = (stdout: string) => stdout.replaceAll(ours, theirs)
        expect(text((await runOurs(folder, words(theirs))).stdout)).toEqual(wanted.stdout)
        const got = await runTheirs(folder, words(ours))
        expect(text(got.stdout)).toEqual(wanted.stdout)
      }
    }
    const missing = `driver=nbd,server.type=unix,server.path=${ours},x-dirty-bitmap=nope`
    const { status, stderr } = await runOurs(folder, ['map', '--image-opts', missing])
    expect(status).toBe(1)
    expect(stderr).toContain("the server has no context 'nope'")
  })

  it('a bitmap that is not there ends the server', async () => {
    const [program, ...args] = varve
    const child = spawn(
      program,
      [...args, '-r', '-B', 'nope', '-f', 'qcow2', '-k', join(folder, 'x'), 'base.qcow2'],
      {
        cwd: folder,
      },
    )
    let stderr = ''
    child.stderr.on('data', (text) => {
      stderr += text
    })
    const [status] = await once(child, 'close')
    expect([status, stderr.trim()]).toEqual([1, "varve-nbd: Bitmap 'nope' is not found"])
  })
})
