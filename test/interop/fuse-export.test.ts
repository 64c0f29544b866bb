/**
 * Disks as regular files: what programs find when they use them, as with Debian's qemu-storage-daemon,
 * and what the disks hold afterwards.
 */

import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  chownSync,
  closeSync,
  constants,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { mkdir, open } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, it } from 'vitest'
import { sys } from '../../src/sys/current.ts'
import { peer } from '../peers.ts'
import { DaemonPair } from '../support/daemon-pair.ts'
import { scratchFolder } from '../support/folder.ts'
import { main } from '../support/main.ts'
import { Random, seedNote } from '../support/random.ts'
import { until } from '../support/until.ts'

const uses = fileURLToPath(new URL('../support/file-uses.py', import.meta.url))
const folder = scratchFolder('fuse')
const tools = peer('qemu-storage-daemon', 'qemu-img', 'python3', 'mke2fs', 'e2fsck')
const MiB = 1024 * 1024

/** Whether this process may mount: as root, with a kernel that has FUSE. */
const able = process.getuid?.() === 0 && existsSync('/dev/fuse') && sys().supported.fuse
if (!able) console.warn('FUSE exports are not tested: that takes root and /dev/fuse.')

const nodes = {
  qcow2: {
    driver: 'qcow2',
    'node-name': 'qcow2',
    discard: 'unmap',
    file: { driver: 'file', filename: 'disk.qcow2' },
  },
  file: { driver: 'file', 'node-name': 'file', filename: 'disk.raw', discard: 'unmap' },
  null: { driver: 'null-co', 'node-name': 'null', size: 1000, 'read-zeroes': true },
}

let number = 0

/** Both daemons with the same disks, and files that they can be shown at. */
async function start(): Promise<DaemonPair> {
  const root = join(folder, `${number++}`)
  const seed = join(root, 'seed')
  await mkdir(seed, { recursive: true })
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', 'disk.qcow2', '6M'], { cwd: seed })
  execFileSync('qemu-img', ['create', '-q', '-f', 'raw', 'disk.raw', '6M'], { cwd: seed })
  for (const name of ['a', 'b']) writeFileSync(join(seed, name), 'covered')
  const pair = await DaemonPair.start(root, seed)
  for (const node of Object.values(nodes)) await pair.same('blockdev-add', node)
  return pair
}

const fuse = (id: string, node: string, mountpoint: string, more = {}) => ({
  ...{ type: 'fuse', id, 'node-name': node, mountpoint },
  ...more,
})

describe.skipIf(!able || !tools.path)('a FUSE export', () => {
  it.each([
    ['qcow2', 'read', 1, {}],
    ['qcow2', 'write', 100, { writable: true }],
    // QEMU lets an image grow by whole sectors only; ours rounds up. Whole clusters, since QEMU also takes space for
    // what was left of the last.
    ['qcow2', 'write', 65536, { writable: true, growable: true }],
    ['file', 'write', 100, { writable: true, 'allow-other': 'off' }],
    ['file', 'write', 100, { writable: true, growable: true, 'allow-other': 'on' }],
    ['null', 'read', 1, { 'allow-other': 'off' }],
  ] as const)(
    'of a %s node is a file like QEMU’s: %s, by %d bytes, %j',
    async (node, use, unit, more) => {
      await using pair = await start()
      await pair.same('block-export-add', fuse('e', node, 'a', more))
      await pair.same('query-block-exports')
      const [ours, theirs] = [pair.folders.ours, pair.folders.theirs].map((cwd) =>
        execFileSync('python3', [uses, 'a', use, `${unit}`], { cwd, encoding: 'utf8' }),
      )
      expect(ours).toBe(theirs)
      await pair.same('block-export-del', { id: 'e' })
      await pair.sameEvents()
      await pair.same('blockdev-del', { 'node-name': node })
      for (const cwd of Object.values(pair.folders)) {
        expect(readFileSync(join(cwd, 'a'), 'utf8')).toBe('covered')
      }
      if (node === 'null') return
      const name = node === 'file' ? 'disk.raw' : 'disk.qcow2'
      const files = Object.values(pair.folders).map((cwd) => join(cwd, name))
      execFileSync('qemu-img', ['compare', '-q', ...files])
    },
  )

  it('is refused in the same words', async () => {
    await using pair = await start()
    for (const args of [
      { type: 'fuse', id: 'e', 'node-name': 'file' },
      fuse('e', 'file', 'missing'),
      fuse('e', 'file', '.'),
      fuse('e', 'nobody', 'a'),
      fuse('e', 'file', 'a', { 'allow-other': 'perhaps' }),
      fuse('e', 'file', 'a', { name: 'a' }),
      fuse('e', 'file', 'a'),
      fuse('e', 'null', 'b'),
      fuse('e2', 'null', 'a'),
    ]) {
      await pair.same('block-export-add', args)
    }
    await pair.same('query-block-exports')
  })

  it('ends with its file open, and when somebody else has unmounted it', async () => {
    await using pair = await start()
    await pair.same('block-export-add', fuse('e', 'file', 'a'))
    await pair.same('block-export-add', fuse('f', 'null', 'b'))
    const sides = Object.values(pair.folders)
    const files = sides.map((cwd) => openSync(join(cwd, 'a'), 'r'))
    await pair.same('block-export-del', { id: 'e', mode: 'safe' })
    for (const fd of files) {
      expect(() => readSync(fd, new Uint8Array(10), 0, 10, 0)).toThrow('ENOTCONN')
      expect(() => closeSync(fd)).toThrow('ENOTCONN')
    }
    for (const cwd of sides) execFileSync('umount', ['b'], { cwd })
    await pair.same('query-block-exports')
    await pair.same('block-export-del', { id: 'f' })
    await pair.sameEvents()
    await pair.same('blockdev-del', { 'node-name': 'null' })
  })

  it(`holds what is written, by several at a time (${seedNote})`, async () => {
    await using pair = await start()
    await pair.same('block-export-add', fuse('e', 'qcow2', 'a', { writable: true }))
    const path = join(pair.folders.ours, 'a')
    const model = new Uint8Array(6 * MiB)
    const seeds = new Random()
    const areas = Array.from({ length: 8 }, (_, index) => ({ index, seed: seeds.below(2 ** 31) }))
    await Promise.all(
      areas.map(async ({ index, seed }) => {
        const random = new Random(seed)
        const start = (index * model.length) / 8
        await using file = await open(path, constants.O_RDWR | (index % 2 ? constants.O_DIRECT : 0))
        for (let round = 0; round < 40; round++) {
          const [at, length] = random.range(model.length / 8 / 4096, 1, 64).map((n) => n * 4096)
          const offset = start + at
          const bytes = sys().alignedMemory(length, 4096)
          if (random.chance(0.6)) {
            bytes.set(random.bytes(length))
            await file.write(bytes, 0, length, offset)
            model.set(bytes, offset)
          } else {
            await file.read(bytes, 0, length, offset)
            const expected = model.subarray(offset, offset + length)
            expect(Buffer.compare(bytes, expected)).toBe(0)
          }
        }
      }),
    )
    expect(Buffer.compare(readFileSync(path), model)).toBe(0)
    await pair.same('block-export-del', { id: 'e' })
    await pair.same('blockdev-del', { 'node-name': 'qcow2' })
    const cwd = pair.folders.ours
    execFileSync('qemu-img', ['check', '-q', 'disk.qcow2'], { cwd })
    execFileSync('qemu-img', ['convert', '-O', 'raw', 'disk.qcow2', 'all'], { cwd })
    expect(Buffer.compare(readFileSync(join(cwd, 'all')), model)).toBe(0)
  })

  it('is as good as a file to other programs, several exports at a time', async () => {
    await using pair = await start()
    const cwd = pair.folders.ours
    const exports = ['qcow2', 'file'].map((node, index) => [node, ['a', 'b'][index]])
    for (const [node, name] of exports) {
      await pair.same('block-export-add', fuse(name, node, name, { writable: true }))
      execFileSync('mke2fs', ['-q', '-F', '-t', 'ext4', '-d', join(cwd, '..', 'seed'), name], {
        cwd,
      })
      execFileSync('e2fsck', ['-fn', name], { cwd, stdio: 'pipe' })
    }
    // Each a thread of the pool would be none for the files below.
    for (let count = 0; count < 6; count++) {
      writeFileSync(join(cwd, `n${count}`), '')
      writeFileSync(join(pair.folders.theirs, `n${count}`), '')
      await pair.same('block-export-add', fuse(`n${count}`, 'null', `n${count}`))
    }
    execFileSync('qemu-img', ['convert', '-f', 'raw', '-O', 'raw', 'a', 'b', '-n'], { cwd })
    execFileSync('qemu-img', ['compare', '-q', '-f', 'raw', '-F', 'raw', 'a', 'b'], { cwd })
    execFileSync('e2fsck', ['-fn', 'b'], { cwd, stdio: 'pipe' })
    const fd = openSync(join(cwd, 'b'), 'r+')
    expect(writeSync(fd, Buffer.from('x'), 0, 1, MiB)).toBe(1)
    closeSync(fd)
    await until(() => readFileSync(join(cwd, 'disk.raw'))[MiB] === 'x'.charCodeAt(0))
  })
})

/** Anybody who is not root; to him the helper has to be there, and the device open. */
const somebody = { uid: 65_534, gid: 65_534 }
const helped = able && peer('fusermount3').path && (statSync('/dev/fuse').mode & 0o006) === 0o006

it.skipIf(!helped)('takes no root where fusermount3 is', async () => {
  const cwd = mkdtempSync('/tmp/varve-fuse-')
  try {
    for (const name of ['disk', 'shown']) writeFileSync(join(cwd, name), Buffer.alloc(1024, name))
    for (const name of ['', 'disk', 'shown']) chownSync(join(cwd, name), 65_534, 65_534)
    const daemon = spawn(
      process.execPath,
      [
        ...[main, 'daemon', '--blockdev', 'driver=file,node-name=d,filename=disk'],
        ...['--export', 'type=fuse,id=e,node-name=d,mountpoint=shown', '--pidfile', 'pid'],
      ],
      { cwd, stdio: 'inherit', ...somebody },
    )
    const ended = once(daemon, 'close')
    await until(() => existsSync(join(cwd, 'pid')))
    const read = () => execFileSync('cat', ['shown'], { cwd, encoding: 'utf8', ...somebody })
    expect(read()).toMatch(/^diskdisk/)
    // Others may not, not even root.
    expect(() => readFileSync(join(cwd, 'shown'))).toThrow('EACCES')
    daemon.kill('SIGTERM')
    await ended
    expect(read()).toMatch(/^shownshown/)
  } finally {
    rmSync(cwd, { recursive: true, force: true })
  }
})
