/** Filters whose work shows in the files that they leave: preallocate, compress, blkverify. */

import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { main } from '../support/main.ts'
import { Random, seedNote } from '../support/random.ts'
import { Twins } from '../support/twins.ts'

const folder = scratchFolder('written-filters')
const qemuImg = peer('qemu-img', 'qemu-io')
const commands = (...lines: readonly string[]) => lines.flatMap((line) => ['-c', line])
let runs = 0

function twins(): Twins {
  const seed = join(folder, `seed${runs++}`)
  mkdirSync(seed)
  for (const name of ['a.raw', 'b.raw']) {
    writeFileSync(join(seed, name), '')
    truncateSync(join(seed, name), 1024 * 1024)
  }
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', 'a.qcow2', '64M'], { cwd: seed })
  return new Twins(folder, `twins${runs}`, seed)
}

qemuImg.describe('preallocate', () => {
  const image = 'driver=qcow2,file.driver=preallocate,file.file.filename=a.qcow2'

  /** Sizes of the file after each command, and after the end. */
  async function sizes(program: readonly string[], cwd: string, args: readonly string[]) {
    const [name, ...before] = program
    const child = spawn(name, [...before, ...args], { cwd, stdio: ['pipe', 'pipe', 'inherit'] })
    let said = ''
    child.stdout.on('data', (text) => {
      said += text
    })
    const found: number[] = []
    for (const [index, line] of ['write 0 4k', 'write 20M 64k', 'write 30M 1M'].entries()) {
      child.stdin.write(`${line}\n`)
      while ((said.match(/ ops;/g) ?? []).length <= index) await sleep(20)
      found.push(statSync(join(cwd, 'a.qcow2')).size)
    }
    child.stdin.end('quit\n')
    await once(child, 'close')
    return [...found, statSync(join(cwd, 'a.qcow2')).size]
  }

  test.each([
    image,
    `${image},file.prealloc-size=1M`,
    `${image},file.prealloc-size=3000000,file.prealloc-align=65536`,
  ])('reserves and gives back as much: %s', async (options) => {
    const { ours, theirs } = twins()
    const args = ['--image-opts', options]
    const expected = await sizes(['qemu-io'], theirs, args)
    expect(await sizes([process.execPath, main, 'io'], ours, args)).toEqual(expected)
    execFileSync('qemu-img', ['check', '-q', join(ours, 'a.qcow2')])
  })

  test.each([
    'prealloc-align=100',
    'prealloc-align=0',
    'prealloc-size=1000',
    'x=1',
    'prealloc-size=5M',
  ])('below a raw disk: %s', async (options) => {
    const pair = twins()
    const lines = commands('write 0 4k', 'truncate 2M', 'write 1M 4k', 'truncate 1500k', 'flush')
    const disk = `driver=preallocate,file.filename=a.raw,${options}`
    await pair.same('io', [...lines, '--image-opts', disk])
    pair.sameFile('a.raw')
  })
})

qemuImg.describe(`compress (${seedNote})`, () => {
  const image = 'driver=compress,file.driver=qcow2,file.file.filename=a.qcow2'

  test('compresses every cluster that is written', async () => {
    const random = new Random()
    const pair = twins()
    // Each in clusters of its own: QEMU cannot write to a compressed cluster again.
    const lines = Array.from({ length: 12 }, (_, index) => {
      const [offset, length] = random.range(4 * 1024 * 1024, 512, 300_000)
      const verb = random.pick([`write -P ${index}`, 'write -z', 'read'])
      return `${verb} ${index * 4 * 1024 * 1024 + offset} ${length}`
    })
    await pair.same('io', [...commands(...lines), '--image-opts', image])
    const [ours, theirs] = [pair.ours, pair.theirs].map((side) => {
      const path = join(side, 'a.qcow2')
      const report = execFileSync('qemu-img', ['check', '--output=json', path]).toString()
      const { 'compressed-clusters': compressed, 'allocated-clusters': allocated } =
        JSON.parse(report)
      return { path, compressed, allocated }
    })
    expect(ours.compressed).toBe(theirs.compressed)
    expect(ours.allocated).toBe(theirs.allocated)
    execFileSync('qemu-img', ['compare', '-q', ours.path, theirs.path])
  })

  test.each([
    'driver=compress,file.filename=a.raw',
    'driver=compress,file.driver=raw,file.file.filename=a.raw',
    `${image},x=1`,
    'driver=compress',
  ])('refuses %s', async (options) => {
    await twins().same('io', [...commands('write 0 64k'), '--image-opts', options])
  })
})

qemuImg.describe('blkverify', () => {
  const lines = commands('read 0 4k', 'write -P 3 10k 64k', 'discard 0 64k', 'flush', 'read 0 128k')

  test.each([
    ['-f', 'raw', 'blkverify:a.raw:b.raw'],
    ['blkverify:a.raw:a.qcow2'],
    ['-f', 'raw', 'blkverify:a.raw'],
    ['-f', 'raw', 'blkverify:a.raw:nothing'],
    ['--image-opts', 'driver=blkverify,raw.filename=a.raw'],
    [
      '--image-opts',
      'driver=blkverify,raw.filename=a.raw,test.driver=raw,test.file.filename=b.raw',
    ],
  ])('%s %s %s', async (...image) => {
    const pair = twins()
    await pair.same('io', [...lines, ...image])
    pair.sameFile('a.raw')
    pair.sameFile('b.raw')
  })

  test('ends where the disks differ', async () => {
    const pair = twins()
    for (const side of [pair.ours, pair.theirs]) {
      const bytes = readFileSync(join(side, 'b.raw'))
      bytes[70_000] = 1
      writeFileSync(join(side, 'b.raw'), bytes)
    }
    const image = ['-f', 'raw', 'blkverify:a.raw:b.raw']
    const said = await pair.same('io', [
      ...commands('read 0 64k', 'read 32k 64k', 'read 0 512'),
      ...image,
    ])
    expect(said.stderr).toContain('contents mismatch at offset 70000')
  })
})
