/** Archives against a second implementation of the format, and against the real zstd and gzip. */
import { spawn } from 'node:child_process'
import { createReadStream } from 'node:fs'
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { openSink } from '../../src/archive/vma/io/open-sink.ts'
import { run } from '../../src/cli/vma.ts'
import { openDisk } from '../../src/disk.ts'
import { peer } from '../peers.ts'
import { runCommand } from '../support/cli.ts'
import { Random, runSeed, seedNote } from '../support/random.ts'
import { patternedDisk, type TestDevice, writeArchive } from '../support/vma.ts'

const cluster = 65_536
const reference = join(import.meta.dirname, 'vma-reference.py')
const python = peer('python3')
const zstd = peer('zstd')
const gzip = peer('gzip')
const qemuImg = peer('qemu-img', 'qemu-io')
const qemuIo = peer('qemu-io')

let folder = ''
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'varve-vma-'))
})
afterEach(() => rm(folder, { recursive: true }))
const inFolder = (name: string) => join(folder, name)

async function vma(...args: string[]): Promise<string> {
  const { status, stdout, stderr } = await runCommand(run, args, { cwd: folder })
  if (status !== 0) throw new Error(`vma ${args.join(' ')}: ${stderr}`)
  return stdout.toString()
}

async function makeArchive(name: string, devices: readonly TestDevice[], extensions = true) {
  const sink = await openSink(inFolder(name))
  const configs = [{ name: 'vm.conf', data: Buffer.from('memory: 512\n') }]
  await writeArchive(sink, devices, configs, { extensions, ctime: 1234 })
}

python.describe('the reference implementation', () => {
  const disks = [
    { name: 'drive-scsi0', content: patternedDisk(130 * cluster, 1) },
    { name: 'drive-scsi1', content: patternedDisk(7 * cluster + 4097, 2) },
    { name: 'small', content: Buffer.from('s') },
  ]

  it.each([true, false])('extracts what we write; with extensions: %s', async (extensions) => {
    await makeArchive('a.vma', disks, extensions)
    const facts = JSON.parse(
      await python.run(reference, 'extract', inFolder('a.vma'), inFolder('x')),
    )
    expect(facts).toMatchObject({
      ctime: 1234,
      configs: { 'vm.conf': 'memory: 512\n' },
      devices: disks.map(({ name, content }, index) => ({
        id: index + 1,
        name,
        size: content.length,
      })),
    })
    for (const { name, content } of disks) {
      expect((await readFile(inFolder(`x/${name}`))).equals(content), name).toBe(true)
    }
  })

  it('extracts a vmstate and 254 devices', async () => {
    const state = { name: 'vmstate', content: Buffer.alloc(3 * cluster), size: 3 * cluster }
    state.content.fill(1, cluster, cluster + 10)
    const many = Array.from({ length: 253 }, (_, index) => ({
      name: `d${index}`,
      content: patternedDisk(1 + index * 300, index),
    }))
    await makeArchive('a.vma', [state, ...many])
    await python.run(reference, 'extract', inFolder('a.vma'), inFolder('x'))
    for (const { name, content } of [state, ...many]) {
      expect((await readFile(inFolder(`x/${name}`))).equals(content), name).toBe(true)
    }
  })

  it(`writes archives that we read (${seedNote})`, async () => {
    const random = new Random(runSeed)
    const specs: string[] = []
    await writeFile(inFolder('vm.conf'), 'x')
    for (const { name, content } of disks) {
      await writeFile(inFolder(name), content)
      specs.push(`${name}=${inFolder(name)}`)
    }
    const seed = String(random.below(1e9))
    const config = inFolder('vm.conf')
    await python.run(reference, 'create', inFolder('a.vma'), seed, config, '--', ...specs)
    expect(await vma('verify', 'a.vma')).toBe('')
    await vma('extract', 'a.vma', 'all')
    await vma('extract', 'a.vma', '-d', 'drive-scsi1', 'one')
    for (const { name, content } of disks) {
      expect((await readFile(inFolder(`all/disk-${name}.raw`))).equals(content), name).toBe(true)
    }
    expect(await readdir(inFolder('one'))).toEqual(['disk-drive-scsi1.raw', 'vm.conf'])
    const one = await readFile(inFolder('one/disk-drive-scsi1.raw'))
    expect(one.equals(disks[1].content)).toBe(true)
  })
})

const disk = { name: 'disk', content: patternedDisk(300 * cluster + 100, 3) }

zstd.describe('zstd', () => {
  it('decodes our archives, and finds nothing to complain about', async () => {
    await makeArchive('a.vma.zst', [disk])
    await zstd.run('-t', inFolder('a.vma.zst'))
    await zstd.run('-d', inFolder('a.vma.zst'), '-o', inFolder('a.vma'))
    expect(await vma('verify', 'a.vma')).toBe('')
    expect(await vma('list', 'a.vma')).toBe(await vma('list', 'a.vma.zst'))
  })

  it.each([
    ['a file', []],
    ['several threads', ['-T2', '-B1MiB']],
    ['rsyncable frames', ['--rsyncable', '-T2']],
    ['a long window', ['--long=27']],
    ['no checksum', ['--no-check']],
    ['high compression', ['-12']],
  ])('makes files that we read: %s', async (_, options) => {
    await makeArchive('a.vma', [disk])
    await zstd.run(...options, inFolder('a.vma'), '-o', inFolder('b.vma.zst'))
    expect(await vma('verify', 'b.vma.zst')).toBe('')
    await vma('extract', 'b.vma.zst', 'out')
    expect((await readFile(inFolder('out/disk-disk.raw'))).equals(disk.content)).toBe(true)
  })

  it('makes streams that we read, whole and cut at any place', async () => {
    await makeArchive('a.vma', [disk])
    const child = spawn(zstd.path!, ['-c'], { stdio: ['pipe', 'pipe', 'inherit'] })
    createReadStream(inFolder('a.vma')).pipe(child.stdin)
    const compressed = await buffer(child.stdout)
    const whole = await runCommand(run, ['verify', '-'], { input: compressed })
    expect(whole).toMatchObject({ status: 0, stderr: '' })
    for (const part of [0.001, 0.1, 0.5, 0.99, 0.9999]) {
      const input = compressed.subarray(0, Math.floor(compressed.length * part))
      const cut = await runCommand(run, ['verify', '-'], { input })
      expect(cut).toMatchObject({ status: 1, stderr: expect.stringContaining('truncated') })
    }
  })
})

it.each(['a.vma', 'a.vma.zst'])('a disk inside %s is opened like an image', async (name) => {
  await makeArchive(name, [disk, { name: 'other', content: Buffer.from('other') }])
  const options = { driver: 'vma', device: 'disk' }
  await using opened = await openDisk(inFolder(name), { readOnly: true, options })
  const content = Buffer.alloc(opened.size)
  await opened.read(0, content)
  expect(content.equals(disk.content)).toBe(true)
  let zeroes = 0
  for await (const extent of opened.extents()) if (extent.zero) zeroes += extent.length
  expect(zeroes).toBeGreaterThan(disk.content.length / 4)
  await expect(openDisk(inFolder(name), { format: 'vma', readOnly: true })).rejects.toThrow(
    /choose one with 'device'/,
  )
})

qemuImg.describe('images', () => {
  it('of any format, with backing files, go in; -r brings them back in any format', async () => {
    const size = 40 * cluster + 512
    const base = patternedDisk(size, 8)
    await writeFile(inFolder('base.raw'), base)
    const overlay = inFolder('overlay.qcow2')
    await qemuImg.run('create', '-q', '-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', overlay)
    await qemuIo.run(
      '-c',
      `write -P 7 ${5 * cluster + 100} 200000`,
      '-c',
      'write -z 1M 256k',
      overlay,
    )
    await vma('create', 'a.vma', '-d', `format=qcow2:one=${overlay}`, '-d', `two=${overlay}`)
    await vma('extract', 'a.vma', '-d', 'one', 'raw')
    await qemuImg.run('compare', inFolder('raw/disk-one.raw'), overlay)

    await qemuImg.run('create', '-q', '-f', 'qcow2', inFolder('new.qcow2'), String(size))
    await qemuImg.run('create', '-q', '-f', 'qcow2', inFolder('used.qcow2'), String(size))
    await qemuIo.run('-c', `write -P 9 0 ${size}`, inFolder('used.qcow2'))
    const lines = [
      `format=qcow2:cache=unsafe:0:one=${inFolder('new.qcow2')}`,
      `format=qcow2:cache=writethrough:1:two=${inFolder('used.qcow2')}`,
    ]
    await writeFile(inFolder('map'), lines.join('\n'))
    await vma('extract', 'a.vma', '-r', 'map', 'out')
    for (const name of ['new.qcow2', 'used.qcow2']) {
      await qemuImg.run('compare', inFolder(name), overlay)
      await qemuImg.run('check', '-q', inFolder(name))
    }
    await writeFile(inFolder('map'), `1:one=${inFolder('new.qcow2')}\nskip=two`)
    const guessed = await runCommand(run, ['extract', 'a.vma', '-r', 'map', 'x'], { cwd: folder })
    expect(guessed.stderr).toMatch(/looks like a qcow2 image; name its format/)
  })
})

gzip.it('gzip decodes our archives, and we its files', async () => {
  await makeArchive('a.vma.gz', [disk])
  await gzip.run('-t', inFolder('a.vma.gz'))
  expect(await vma('verify', 'a.vma.gz')).toBe('')
  await gzip.run('-d', inFolder('a.vma.gz'))
  expect(await vma('verify', 'a.vma')).toBe('')
  await gzip.run('-1', inFolder('a.vma'))
  await vma('extract', 'a.vma.gz', 'out')
  expect((await readFile(inFolder('out/disk-disk.raw'))).equals(disk.content)).toBe(true)
})
