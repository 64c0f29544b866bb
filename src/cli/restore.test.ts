import { mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import { beforeEach, expect, test } from 'vitest'
import { runCommand } from '../../test/support/cli.ts'
import { scratchFolder } from '../../test/support/folder.ts'
import { archiveOf, patternedDisk } from '../../test/support/vma.ts'
import { openDisk } from '../disk.ts'
import { drivers } from '../drivers.ts'
import type { CliIo } from './command.ts'
import { run } from './restore.ts'

const cluster = 65536
const folder = scratchFolder('restore')
const disks = [
  { name: 'scsi0', content: patternedDisk(40 * cluster + 512, 1) },
  { name: 'scsi1', content: patternedDisk(7 * cluster, 2) },
]
const configs = [{ name: 'vm.conf', data: Buffer.from('cores: 2\n') }]
const archive = await archiveOf(disks, configs)
const inFolder = (name: string) => join(folder, name)

beforeEach(async () => {
  for (const name of await readdir(folder)) await rm(inFolder(name), { recursive: true })
  await writeFile(inFolder('a.vma'), archive)
})

async function restore(args: string[], io: Partial<CliIo> & { input?: Uint8Array } = {}) {
  return await runCommand(run, args, { cwd: folder, ...io })
}

async function refused(args: string[], message: RegExp, io: Parameters<typeof restore>[1] = {}) {
  const { status, stderr } = await restore(args, io)
  expect(stderr).toMatch(message)
  expect(stderr).toMatch(/^varve restore: [^\n]*\n$/)
  expect(status).toBe(1)
}

async function expectDisks(into: string, names = ['scsi0', 'scsi1']) {
  for (const { name, content } of disks.filter((disk) => names.includes(disk.name))) {
    const restored = await readFile(inFolder(join(into, `disk-${name}.raw`)))
    expect(restored.equals(content), name).toBe(true)
  }
}

test('disks and configuration files, sparse, in a new folder', async () => {
  const { status, stdout, stderr } = await restore([inFolder('a.vma'), 'out'])
  expect([status, stderr]).toEqual([0, ''])
  expect((await readdir(inFolder('out'))).sort()).toEqual([
    'disk-scsi0.raw',
    'disk-scsi1.raw',
    'vm.conf',
  ])
  await expectDisks('out')
  expect(await readFile(inFolder('out/vm.conf'), 'utf8')).toBe('cores: 2\n')
  const { blocks, size } = await stat(inFolder('out/disk-scsi0.raw'))
  expect(blocks * 512).toBeLessThan(size)
  expect(stdout.toString()).toMatch(/restored 2 disks of 2\.94 MiB and 1 configuration file in/)
})

test.each([
  ['zstd', zstdCompressSync(archive)],
  ['gzip', gzipSync(archive)],
])('from %s, as a file and as standard input', async (_, bytes) => {
  await writeFile(inFolder('b.vma.x'), bytes)
  expect((await restore([inFolder('b.vma.x'), 'out'])).status).toBe(0)
  await expectDisks('out')
  expect((await restore(['-', 'out2'], { input: bytes })).status).toBe(0)
  await expectDisks('out2')
})

test('several archives get folders of their own', async () => {
  await writeFile(inFolder('b.vma.zst'), zstdCompressSync(archive))
  const args = [inFolder('a.vma'), inFolder('b.vma.zst'), '-', 'out', '--device', 'scsi1']
  expect((await restore(args, { input: archive })).status).toBe(0)
  expect((await readdir(inFolder('out'))).sort()).toEqual(['a', 'b', 'stdin'])
  for (const name of ['a', 'b', 'stdin']) {
    await expectDisks(`out/${name}`, ['scsi1'])
    expect(await readdir(inFolder(`out/${name}`))).not.toContain('disk-scsi0.raw')
  }
})

test('--json, and progress as JSON lines', async () => {
  const { stdout } = await restore([inFolder('a.vma'), 'out', '--progress', 'json'])
  const lines = stdout.toString().trim().split('\n')
  const events = lines.map((line) => JSON.parse(line))
  const total = 47 * cluster + 512
  expect(events.at(-2)).toMatchObject({ event: 'progress', done: total, total })
  expect(events.at(-1)).toMatchObject({
    event: 'restored',
    archives: [
      {
        archive: inFolder('a.vma'),
        devices: [
          { name: 'scsi0', path: inFolder('out/disk-scsi0.raw'), format: 'raw' },
          { name: 'scsi1', size: 7 * cluster },
        ],
        configs: [{ path: inFolder('out/vm.conf'), size: 9 }],
      },
    ],
  })
})

const qcow2 = drivers.some(({ name }) => name === 'qcow2')
test.skipIf(!qcow2)('as qcow2 images, smaller than the disks', async () => {
  expect((await restore([inFolder('a.vma'), 'out', '--format', 'qcow2'])).status).toBe(0)
  for (const { name, content } of disks) {
    const path = inFolder(`out/disk-${name}.qcow2`)
    await using disk = await openDisk(path, { format: 'qcow2', readOnly: true })
    expect(disk.size).toBe(content.length)
    const restored = Buffer.alloc(content.length)
    await disk.read(0, restored)
    expect(restored.equals(content), name).toBe(true)
  }
})

test('a vmstate becomes vmstate.bin, whatever the format of the disks', async () => {
  const content = patternedDisk(3 * cluster, 5)
  await writeFile(inFolder('s.vma'), await archiveOf([{ name: 'vmstate', content }]))
  expect((await restore([inFolder('s.vma'), 'out', '--format', 'qcow2'])).status).toBe(0)
  expect((await readFile(inFolder('out/vmstate.bin'))).equals(content)).toBe(true)
})

test('an existing folder gets new files; what exists is never replaced', async () => {
  await mkdir(inFolder('out'))
  await writeFile(inFolder('out/disk-scsi1.raw'), 'precious')
  await refused(
    [inFolder('a.vma'), 'out'],
    /Could not create '.*disk-scsi1.raw': it exists already/,
  )
  expect(await readdir(inFolder('out'))).toEqual(['disk-scsi1.raw'])
  expect(await readFile(inFolder('out/disk-scsi1.raw'), 'utf8')).toBe('precious')
  await rm(inFolder('out/disk-scsi1.raw'))
  expect((await restore([inFolder('a.vma'), 'out'])).status).toBe(0)
  await expectDisks('out')
})

test('damage anywhere leaves nothing behind', async () => {
  for (const at of [20_000, archive.length - 70_000]) {
    const damaged = Buffer.from(archive)
    damaged[at] ^= 1
    await writeFile(inFolder('a.vma'), damaged)
    await refused([inFolder('a.vma'), 'out'], /a\.vma: the extent at byte \d+ is damaged/)
    expect(await readdir(folder)).toEqual(['a.vma'])
  }
  await writeFile(inFolder('a.vma'), archive.subarray(0, archive.length - 100_000))
  await refused([inFolder('a.vma'), 'out'], /truncated|incomplete/)
  expect(await readdir(folder)).toEqual(['a.vma'])
})

test('of several archives those before a damaged one are kept', async () => {
  const damaged = Buffer.from(archive)
  damaged[archive.length - 70_000] ^= 1
  await writeFile(inFolder('b.vma'), damaged)
  await refused([inFolder('a.vma'), inFolder('b.vma'), 'out'], /b\.vma: the extent at/)
  expect(await readdir(inFolder('out'))).toEqual(['a'])
  await expectDisks('out/a')
})

test.each([
  [[], /missing required argument/],
  [['a.vma'], /name the archives first, then the folder/],
  [['-', '-', 'out'], /standard input can be given once/],
  [['--colour', 'a.vma', 'out'], /unknown option '--colour'/],
  [['--format', 'vmdk', 'a.vma', 'out'], /'vmdk' is invalid. Allowed choices are raw, qcow2/],
  [['--device', 'ide7', 'a.vma', 'out'], /no device 'ide7'; the devices are: scsi0, scsi1/],
  [['a.vma', './a.vma', 'out'], /two archives would be restored to 'a'/],
  [['none.vma', 'out'], /none\.vma.*No such file/],
  [['a.vma', 'no/such/out'], /Could not create the folder '.*no\/such\/out': No such file/],
])('%s is refused and nothing is left', async (args, message) => {
  await refused(args, message)
  expect(await readdir(folder)).toEqual(['a.vma'])
})

test('something that is no archive is refused', async () => {
  await refused(['-', 'out'], /not a VMA archive/, { input: Buffer.from('hello') })
})

test('Ctrl-C while standard input is waited for: status 130 and nothing left', async () => {
  const interrupt = new AbortController()
  const stdin = new PassThrough()
  stdin.write(archive.subarray(0, archive.length / 2))
  setTimeout(() => interrupt.abort(), 50)
  const { status, stderr } = await restore(['-', 'out'], { stdin, signal: interrupt.signal })
  expect(status).toBe(130)
  expect(stderr).toMatch(/^varve restore: interrupted/)
  expect(await readdir(folder)).toEqual(['a.vma'])
})

test('--version names the program and its version', async () => {
  const { status, stdout } = await restore(['--version'])
  expect(String(stdout)).toMatch(/^varve restore \d+\.\d+\.\d+\n$/)
  expect(status).toBe(0)
})
