/** `varve vma` as processes of their own: pipes, signals, full disks. */

import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, constants, openSync } from 'node:fs'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { main } from '../support/main.ts'
import { archiveOf, patternedDisk } from '../support/vma.ts'
import { mountTmpfs } from './mounts.ts'

const vma = `'${process.execPath}' '${main}' vma`
const content = patternedDisk(200 * 65_536 + 512, 5)

let folder = ''
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'varve-vma-'))
  await writeFile(join(folder, 'disk.raw'), content)
})
afterEach(() => rm(folder, { recursive: true }))

interface Ended {
  readonly status: number | null
  readonly output: string
}

/** Runs a shell command; standard output and error together. */
async function shell(command: string): Promise<Ended> {
  const child = start(command)
  return await ended(child)
}

function start(command: string) {
  const child = spawn('bash', ['-c', `set -o pipefail; ${command}`], { cwd: folder, stdio: 'pipe' })
  child.stdin.end()
  return child
}

async function ended(child: ChildProcess): Promise<Ended> {
  let output = ''
  for (const stream of [child.stdout!, child.stderr!]) {
    stream.on('data', (chunk) => {
      output += chunk
    })
  }
  const [status] = await once(child, 'close')
  return { status, output }
}

test('create, verify and extract through pipes', async () => {
  const create = `${vma} create - -d format=raw:drive=disk.raw`
  expect(await shell(`${create} | ${vma} verify -`)).toEqual({ status: 0, output: '' })
  const { output } = await shell(`${create} | tee a.vma | ${vma} extract - out`)
  expect(output).toBe(`DEVINFO out/tmp-disk-drive.raw ${content.length}\n`)
  expect((await readFile(join(folder, 'out/disk-drive.raw'))).equals(content)).toBe(true)
})

test('a producer that dies between two extents does not look like success', async () => {
  const archive = await archiveOf([{ name: 'drive', content }], [], { extensions: false })
  const extent = archive.indexOf('VMAE', 20_000)
  await writeFile(join(folder, 'part'), archive.subarray(0, extent))
  const { status, output } = await shell(`cat part | ${vma} verify -`)
  expect(status).toBe(1)
  expect(output).toMatch(
    /^vma: standard input: the archive is incomplete: device 'drive' has 58 of/,
  )
})

test('a reader of the output that leaves is one line and status 1', async () => {
  const create = `${vma} create - -d format=raw:drive=disk.raw`
  const { status, output } = await shell(`${create} | head -c 100000 > part`)
  expect(status).toBe(1)
  expect(output).toBe('vma: Could not write to standard output: Broken pipe\n')
})

test('Ctrl-C stops a create whose reader stalls, and leaves the FIFO', async () => {
  const fifo = join(folder, 'fifo')
  execFileSync('mkfifo', [fifo])
  const reader = openSync(fifo, constants.O_RDONLY | constants.O_NONBLOCK)
  const child = spawn(
    process.execPath,
    [main, 'vma', 'create', '-v', fifo, '-d', 'format=raw:d=disk.raw'],
    {
      cwd: folder,
      stdio: 'pipe',
    },
  )
  const ending = ended(child)
  await once(child.stderr, 'data')
  await sleep(50)
  child.kill('SIGINT')
  const { status, output } = await ending
  closeSync(reader)
  expect(status).toBe(1)
  expect(output).toMatch(/vma: interrupted\n$/)
  expect((await readdir(folder)).sort()).toEqual(['disk.raw', 'fifo'])
})

test('Ctrl-C stops an extract whose producer stalls, and leaves nothing', async () => {
  const archive = await archiveOf([{ name: 'drive', content }])
  const child = spawn(process.execPath, [main, 'vma', 'extract', '-', 'out'], {
    cwd: folder,
    stdio: 'pipe',
  })
  const ending = ended(child)
  // It may end before it has taken all of that.
  child.stdin.on('error', () => {})
  child.stdin.write(archive.subarray(0, 5_000_000))
  await once(child.stdout, 'data')
  await sleep(50)
  child.kill('SIGINT')
  expect(await ending).toMatchObject({ status: 1, output: expect.stringMatching(/interrupted\n$/) })
  expect(await readdir(folder)).toEqual(['disk.raw'])
})

test('a full disk is one line, and leaves nothing', async (context) => {
  const small = join(folder, 'small')
  const setup = mountTmpfs(small, 2 * 1024 * 1024)
  if (setup.refused !== undefined) return context.skip(`no tmpfs here: ${setup.refused}`)
  try {
    const create = await shell(`${vma} create small/a.vma -d format=raw:d=disk.raw`)
    expect(create.status).toBe(1)
    expect(create.output).toBe("vma: Could not write 'small/a.vma': No space left on device\n")
    const extract = await shell(
      `${vma} create - -d format=raw:d=disk.raw | ${vma} extract - small/out | grep -v DEVINFO`,
    )
    expect(extract.output).toContain('No space left on device\n')
    expect(await readdir(small)).toEqual([])
  } finally {
    setup.down()
  }
})
