/** Images that a server writes to: which commands are refused, in which words, and which go on. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { comparable, ours, theirs } from '../support/cli-random/programs.ts'
import { scratchFolder } from '../support/folder.ts'

const qemu = peer('qemu-img', 'qemu-nbd')
const folder = scratchFolder('img-held')
const formats = ['raw', 'qcow2'] as const

/** FMT stands for the format of `a`, which is served; `top` is on it, `b` is nobody's. */
const lines = [
  'resize -f FMT a 2M',
  'check -f FMT a',
  'check -r all -f FMT a',
  'snapshot -l a',
  'snapshot -c x a',
  'info a',
  'info -U a',
  'map -f FMT a',
  'map -U -f FMT a',
  'convert -f FMT a c',
  'convert -U -f FMT a c',
  'convert -f qcow2 -O FMT b a',
  'commit top',
  'rebase -b b -F qcow2 top',
  'rebase -u -b b -F qcow2 a',
  'amend -o compat=0.10 a',
  'create -q -f FMT a 1M',
  'create -q -f qcow2 -b a -F FMT new',
  'compare -f FMT a b',
  'compare -U -f FMT a b',
  'measure -f FMT -O raw a',
  'dd -f FMT if=a of=c',
  'dd if=b of=a',
]

qemu.describe('an image that is written to elsewhere', () => {
  const servers: ChildProcess[] = []

  beforeAll(async () => {
    for (const whose of ['o', 'q']) {
      for (const format of formats) servers.push(await startServer(placeOf(whose, format), format))
    }
  })
  afterAll(async () => {
    for (const server of servers) {
      const ended = once(server, 'close')
      server.kill()
      await ended
    }
  })

  it.each(formats.flatMap((format) => lines.map((line) => [format, line] as const)))(
    '%s: %s',
    async (format, line) => {
      const words = line.replaceAll('FMT', format).split(' ')
      const here = comparable(await ours('img', placeOf('o', format), words))
      const there = comparable(await theirs('img', placeOf('q', format), words))
      expect(here).toEqual(there)
    },
  )
})

const placeOf = (whose: string, format: string) => join(folder, whose, format)

async function startServer(cwd: string, format: string): Promise<ChildProcess> {
  rmSync(cwd, { recursive: true, force: true })
  mkdirSync(cwd, { recursive: true })
  const make = (...args: string[]) => execFileSync('qemu-img', ['create', '-q', ...args], { cwd })
  make('-f', format, 'a', '1M')
  make('-f', 'qcow2', '-b', 'a', '-F', format, 'top')
  make('-f', 'qcow2', 'b', '1M')
  const socket = join(cwd, 'socket')
  const server = spawn('qemu-nbd', ['-t', '-k', socket, '-f', format, 'a'], { cwd })
  while (!existsSync(socket) && server.exitCode === null) await sleep(10)
  // The socket is there before the image is open.
  await sleep(200)
  return server
}
