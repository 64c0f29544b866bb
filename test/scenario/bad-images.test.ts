/**
 * Images from strangers, full disks and second writers: always one clear error with a code and a
 * place, at once, in little memory, and nothing lost of what was flushed.
 */
import {
  copyFileSync,
  linkSync,
  mkdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { basename, join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { type Disk, openDisk } from '../../src/disk.ts'
import { drivers } from '../../src/drivers.ts'
import { BlockError } from '../../src/errors.ts'
import { Graph } from '../../src/graph/graph.ts'
import { mountTmpfs } from '../interop/mounts.ts'
import { peer } from '../peers.ts'
import { isClear, openDescriptors } from '../support/damage.ts'
import { scratchFolder } from '../support/folder.ts'
import { runOurs } from '../support/img.ts'
import { varveIo } from '../support/io-tools.ts'
import { QemuIoSession } from '../support/qemu-session.ts'
import { Random, runSeed, seedNote } from '../support/random.ts'

const folder = scratchFolder('bad-images')
const qemuImg = peer('qemu-img', 'qemu-io')
const qemuIo = peer('qemu-io', 'qemu-img')
const { signal } = new AbortController()
const MiB = 1024 * 1024
let names = 0

function newName(extension = 'qcow2'): string {
  return join(folder, `image${names++}.${extension}`)
}

/** A new qcow2 image; options as `qemu-img create -o` takes them. */
async function create(path: string, options: Record<string, unknown> = {}): Promise<string> {
  writeFileSync(path, '')
  const { creator } = drivers.find(({ name }) => name === 'qcow2')!
  await using graph = new Graph({ drivers })
  const file = await graph.open({ driver: 'file', filename: path })
  const uses = ['consistentRead', 'write', 'resize'] as const
  await using edge = graph.attach(file, { description: 'a test', uses })
  await creator!.create(creator!.parse({ size: MiB, ...options }), { file: edge, signal })
  return path
}

/** A backing file that is recorded and never looked at, as a stranger would write it. */
function recordBacking(path: string, name: string, format?: string): void {
  const bytes = readFileSync(path)
  const at = 600
  const extension = Buffer.alloc(16)
  if (format !== undefined) {
    extension.writeUInt32BE(0xe2792aca, 0)
    extension.writeUInt32BE(format.length, 4)
    extension.write(format, 8)
  }
  extension.copy(bytes, 104)
  bytes.fill(0, 120, 128)
  bytes.writeUInt32BE(104, 100)
  bytes.writeBigUInt64BE(BigInt(at), 8)
  bytes.writeUInt32BE(Buffer.byteLength(name), 16)
  bytes.write(name, at)
  writeFileSync(path, bytes)
}

async function failureOf(work: () => Promise<unknown>): Promise<BlockError> {
  const before = openDescriptors()
  const error = await work().then(
    () => undefined,
    (thrown: unknown) => thrown,
  )
  expect(openDescriptors()).toBe(before)
  if (error instanceof BlockError) return error
  throw new Error(`not refused as it should be: ${error}`, { cause: error })
}

async function openingFails(path: string, options: Parameters<typeof openDisk>[1] = {}) {
  return await failureOf(async () => {
    await using _ = await openDisk(path, { format: 'qcow2', readOnly: true, ...options })
  })
}

/** `varve img` fails, with one line that names the image; `check` may say what is wrong in several. */
async function imgRefuses(path: string): Promise<string> {
  let said = ''
  for (const command of ['info', 'check', 'map', 'convert']) {
    const target = command === 'convert' ? ['-O', 'raw', join(folder, 'converted')] : []
    const { status, stderr } = await runOurs(folder, [command, '-f', 'qcow2', path, ...target])
    if (status === 0 && command === 'info') continue
    expect(status, `${command}: ${stderr}`).not.toBe(0)
    if (command === 'check' && !stderr.includes('Could not open')) continue
    expect(stderr.trim().split('\n')).toHaveLength(1)
    expect(stderr).toContain(basename(path))
    said = stderr
  }
  return said
}

async function expectZeroes(path: string): Promise<void> {
  await using disk = await openDisk(path, { format: 'qcow2', readOnly: true })
  const content = Buffer.alloc(MiB, 1)
  await disk.read(0, content)
  expect(content.equals(Buffer.alloc(MiB))).toBe(true)
}

describe('claims that no image can keep', () => {
  /** Fields of the header: name, offset, bytes, value. */
  const claims: [string, number, 4 | 8, bigint][] = [
    ['a disk of 8 EiB', 24, 8, 2n ** 63n - 512n],
    ['a disk of 4 PiB and an L1 table of 64 KiB', 24, 8, 2n ** 52n],
    ['an L1 table of 32 GiB', 36, 4, 0xffff_ffffn],
    ['an L1 table behind 2^60', 40, 8, 2n ** 60n],
    ['an L1 table at an odd place', 40, 8, 3n * 65536n + 8n],
    ['an L1 table behind the end of the file', 40, 8, 2n ** 40n],
    ['a refcount table of 256 TiB', 56, 4, 0xffff_ffffn],
    ['a refcount table at an odd place', 48, 8, 65536n + 512n],
    ['four thousand million snapshots', 60, 4, 0xffff_ffffn],
    ['clusters of 2 GiB', 20, 4, 31n],
    ['clusters of one byte', 20, 4, 0n],
    ['refcounts of 2^32 bits', 96, 4, 32n],
    ['a header of 4 GiB', 100, 4, 0xffff_fff8n],
    ['a name of 4 GiB for a backing file', 16, 4, 0xffff_ffffn],
    ['a version of its own', 4, 4, 77n],
    ['a feature that nobody knows', 72, 8, 2n ** 40n],
    ['LUKS without a header for it', 32, 4, 2n],
    ['an unknown way to encrypt', 32, 4, 9n],
  ]

  test.each(claims)('%s', async (_, at, width, value) => {
    const path = await create(newName())
    const bytes = readFileSync(path)
    if (at === 16) bytes.writeBigUInt64BE(600n, 8)
    if (width === 8) bytes.writeBigUInt64BE(value, at)
    else bytes.writeUInt32BE(Number(value), at)
    writeFileSync(path, bytes)
    const before = process.memoryUsage().rss
    for (const readOnly of [true, false]) {
      const error = await openingFails(path, { readOnly })
      expect(['CORRUPT_IMAGE', 'UNSUPPORTED', 'NOT_RECOGNISED']).toContain(error.code)
      expect(isClear(error), `${error.message} says where`).toBe(true)
    }
    await imgRefuses(path)
    expect(process.memoryUsage().rss - before).toBeLessThan(128 * MiB)
  })

  test('a refcount table behind the end: the disk can be read, and nothing else', async () => {
    const path = await create(newName())
    const bytes = readFileSync(path)
    bytes.writeBigUInt64BE(2n ** 45n, 48)
    writeFileSync(path, bytes)
    await expectZeroes(path)
    const error = await openingFails(path, { readOnly: false })
    expect(error.code).toBe('CORRUPT_IMAGE')
    expect(isClear(error)).toBe(true)
  })

  test('snapshots behind the end: they cannot be listed or changed, the disk is as it was', async () => {
    const path = await create(newName())
    const bytes = readFileSync(path)
    bytes.writeUInt32BE(3, 60)
    bytes.writeBigUInt64BE(2n ** 44n, 64)
    writeFileSync(path, bytes)
    await expectZeroes(path)
    await using disk = await openDisk(path, { format: 'qcow2' })
    await disk.write(0, Buffer.alloc(MiB, 1))
    const { snapshots } = disk.node.layer
    const error = await failureOf(async () => snapshots?.create({ name: 'new' }, { signal }))
    expect(error.code).toBe('CORRUPT_IMAGE')
  })

  test.each([0, 1, 4, 71, 100, 104])('a header of %d bytes', async (length) => {
    const path = await create(newName())
    writeFileSync(path, readFileSync(path).subarray(0, length))
    expect(['CORRUPT_IMAGE', 'NOT_RECOGNISED']).toContain((await openingFails(path)).code)
    await imgRefuses(path)
  })

  test('an L2 table, refcount block or cluster cut off is an error when it is met', async () => {
    const path = await create(newName())
    {
      await using disk = await openDisk(path, { format: 'qcow2' })
      await disk.write(0, Buffer.alloc(MiB, 1))
    }
    const bytes = readFileSync(path)
    writeFileSync(path, bytes.subarray(0, bytes.length - 300_000))
    const error = await failureOf(async () => {
      await using disk = await openDisk(path, { format: 'qcow2', readOnly: true })
      await disk.read(0, Buffer.alloc(1000))
      await disk.read(MiB - 1000, Buffer.alloc(1000))
    })
    expect(error.code).toBe('CORRUPT_IMAGE')
    expect(isClear(error)).toBe(true)
  })
})

describe('backing files', () => {
  test.each(['refuse', 'same-folder', 'allow'] as const)(
    'one that is missing: %s',
    async (backing) => {
      const path = await create(newName())
      recordBacking(path, 'absent.qcow2', 'qcow2')
      const error = await openingFails(path, { backing })
      if (backing === 'refuse') expect(error.code).toBe('PERMISSION')
      else expect(error).toMatchObject({ code: 'IO', errno: 'ENOENT' })
      expect(error.message).toContain('absent.qcow2')
      expect(isClear(error)).toBe(true)
    },
  )

  test('a missing one is named by varve img', async () => {
    const path = await create(newName())
    recordBacking(path, 'absent.qcow2', 'qcow2')
    const { status, stderr } = await runOurs(folder, ['map', path])
    expect(status).toBe(1)
    expect(stderr).toContain('absent.qcow2')
  })

  test.each([
    ['an absolute path', '/etc/passwd'],
    ['a path out of the folder', '../../etc/passwd'],
    ['a way round through the folder', 'sub/../../passwd'],
    ['a protocol', 'file:/etc/passwd'],
    ['a server', 'nbd://127.0.0.1:1/x'],
    ['options', 'json:{"driver":"file","filename":"/etc/passwd"}'],
    ['a device', '/dev/zero'],
  ])('%s is opened by no policy but "allow"', async (_, name) => {
    const path = await create(newName())
    recordBacking(path, name, 'raw')
    for (const backing of ['refuse', 'same-folder'] as const) {
      const error = await openingFails(path, { backing })
      expect(error.code).toBe('PERMISSION')
      expect(isClear(error)).toBe(true)
    }
  })

  test('a link in the folder that leads out of it is not in the folder', async () => {
    const inside = join(folder, `inside${names++}`)
    mkdirSync(inside)
    const outside = newName('raw')
    writeFileSync(outside, Buffer.alloc(MiB, 7))
    symlinkSync(outside, join(inside, 'link.raw'))
    const path = await create(join(inside, 'overlay.qcow2'))
    recordBacking(path, 'link.raw', 'raw')
    expect((await openingFails(path, { backing: 'same-folder' })).code).toBe('PERMISSION')
    await using _ = await openDisk(path, { readOnly: true, backing: 'allow' })
  })

  test('one in the folder is opened by "same-folder", by whatever way the folder is named', async () => {
    const inside = join(folder, `inside${names++}`)
    mkdirSync(inside)
    await create(join(inside, 'base.qcow2'))
    const path = await create(join(inside, 'overlay.qcow2'))
    recordBacking(path, 'base.qcow2', 'qcow2')
    symlinkSync(inside, `${inside}-link`)
    for (const name of [path, join(`${inside}-link`, 'overlay.qcow2')]) {
      await using disk = await openDisk(name, { readOnly: true, backing: 'same-folder' })
      expect(disk.size).toBe(MiB)
    }
  })

  test('a policy of the caller is asked, and hears everything', async () => {
    const path = await create(newName())
    recordBacking(path, 'secret.qcow2', 'qcow2')
    const asked: unknown[] = []
    const refusal = new BlockError('PERMISSION', 'not this one', { path })
    const backing = (file: unknown) => {
      asked.push(file)
      throw refusal
    }
    const error = await openingFails(path, { backing })
    expect(error.message).toContain('not this one')
    expect(asked).toMatchObject([
      { role: 'backing', recorded: 'secret.qcow2', format: 'qcow2', image: path },
    ])
  })

  /** Images by name, each with the backing file it names. */
  const loops: Record<string, Record<string, string>> = {
    'a → a': { a: 'a' },
    'a → b → a': { a: 'b', b: 'a' },
    'a → b → c → b': { a: 'b', b: 'c', c: 'b' },
    'a → ./a': { a: './a' },
    'a → folder/../a': { a: 'sub/../a' },
  }

  test.each(Object.entries(loops))('a loop: %s', async (_, links) => {
    const place = join(folder, `loop${names++}`)
    mkdirSync(join(place, 'sub'), { recursive: true })
    for (const [name, backing] of Object.entries(links)) {
      recordBacking(await create(join(place, name)), backing, 'qcow2')
    }
    const path = join(place, 'a')
    for (const backing of ['allow', 'same-folder'] as const) {
      const error = await openingFails(path, { backing })
      expect(['CORRUPT_IMAGE', 'UNSUPPORTED']).toContain(error.code)
      expect(error.message).toMatch(/loop|chain/)
      expect(error.message.length).toBeLessThan(1000)
    }
    await imgRefuses(path)
  })

  test('a loop through links', async () => {
    const place = join(folder, `loop${names++}`)
    mkdirSync(place)
    const path = await create(join(place, 'a'))
    recordBacking(path, 'b', 'qcow2')
    symlinkSync('a', join(place, 'b'))
    const error = await openingFails(path, { backing: 'allow' })
    expect(error.message).toMatch(/loop|chain/)
    linkSync(path, join(place, 'c'))
    recordBacking(path, 'c', 'qcow2')
    expect((await openingFails(path, { backing: 'allow' })).message).toMatch(/loop|chain/)
  })

  test('a chain that is long is no loop', async () => {
    const place = join(folder, `chain${names++}`)
    mkdirSync(place)
    for (let index = 0; index < 40; index++) {
      const path = await create(join(place, `${index}`))
      if (index > 0) recordBacking(path, `${index - 1}`, 'qcow2')
    }
    await using disk = await openDisk(join(place, '39'), { readOnly: true, backing: 'allow' })
    const target = Buffer.alloc(512, 1)
    await disk.read(0, target)
    expect(target).toEqual(Buffer.alloc(512))
  })
})

describe('requests at any offset, past the page cache', () => {
  test.each(['raw', 'qcow2'])(`%s (${seedNote})`, async (format) => {
    const path = newName(format)
    if (format === 'raw') writeFileSync(path, Buffer.alloc(MiB))
    else await create(path, { cluster_size: 4096 })
    const random = new Random(runSeed + 1)
    const model = Buffer.alloc(MiB)
    const options = { format, options: { cache: { direct: true } } }
    {
      await using disk = await openDisk(path, options)
      for (let round = 0; round < 100; round++) {
        const [offset, length] = random.range(MiB, 1, 30_000)
        const source = random.bytes(length)
        if (random.chance(0.2)) {
          await disk.writeZeroes(offset, length, { mayUnmap: true })
          model.fill(0, offset, offset + length)
        } else {
          await disk.write(offset, source)
          model.set(source, offset)
        }
        await expectSame(disk, model, random.range(MiB, 1, 30_000))
      }
    }
    await using disk = await openDisk(path, { format, readOnly: true })
    await expectSame(disk, model, [0, MiB])
    for (const [offset, length] of [
      [MiB, 1],
      [MiB - 1, 2],
      [-1, 1],
      [0.5, 1],
    ]) {
      const error = await failureOf(async () => await disk.read(offset, Buffer.alloc(length)))
      expect(['OUT_OF_RANGE', 'INVALID_ARGUMENT']).toContain(error.code)
    }
  })
})

async function expectSame(disk: Disk, model: Buffer, [offset, length]: readonly number[]) {
  const target = Buffer.alloc(length)
  await disk.read(offset, target)
  expect(target.equals(model.subarray(offset, offset + length)), `${offset}+${length}`).toBe(true)
}

const full = mountTmpfs(join(folder, 'full'), 2 * MiB)
afterAll(() => full.down())
const onFull = full.path === undefined ? test.skip : test

describe(`a disk that is full${full.path === undefined ? ` [skipped: ${full.refused}]` : ''}`, () => {
  onFull.each([512, 4096, 65536])(
    'in the middle of writes, clusters of %d',
    async (clusterSize) => {
      const path = join(full.path!, 'image.qcow2')
      const options = { cluster_size: clusterSize, size: 16 * MiB }
      await create(path, options)
      const step = 48 * 1024
      let flushed = 0
      let failure: unknown
      const disk = await openDisk(path, { format: 'qcow2' })
      for (let at = 0; at < 16 * MiB && !failure; at += step) {
        await disk.write(at, Buffer.alloc(step, (at / step) % 251)).catch((error) => {
          failure = error
        })
        if (!failure && (at / step) % 4 === 3) {
          await disk.flush().then(
            () => {
              flushed = at + step
            },
            (error) => {
              failure = error
            },
          )
        }
      }
      expect(failure).toMatchObject({ code: 'NO_SPACE', errno: 'ENOSPC' })
      expect(isClear(failure)).toBe(true)
      // It still reads, and closes, with an error at most.
      const target = Buffer.alloc(step)
      await disk.read(0, target)
      expect(target).toEqual(Buffer.alloc(step, 0))
      await disk[Symbol.asyncDispose]().catch((error) => expect(error.code).toBe('NO_SPACE'))
      expect(flushed).toBeGreaterThan(256 * 1024)
      await expectIntact(path, flushed, step)
    },
  )

  onFull('varve img convert says so in one line', async () => {
    const source = newName('raw')
    writeFileSync(source, new Random(7).bytes(4 * MiB))
    for (const format of ['raw', 'qcow2']) {
      const target = join(full.path!, `converted.${format}`)
      const args = ['convert', '-f', 'raw', '-O', format, source, target]
      const { status, stderr } = await runOurs(folder, args)
      expect(status).toBe(1)
      expect(stderr.trim().split('\n')).toHaveLength(1)
      expect(stderr).toContain('No space left on device')
      writeFileSync(target, '')
    }
  })

  onFull('varve io reports it and goes on', async () => {
    const path = join(full.path!, 'io.qcow2')
    await create(path, { size: 16 * MiB })
    const lines = ['write -q 0 64k', 'flush', 'write 1M 8M', 'read -q -P 0xcd 0 64k']
    const outcome = await varveIo([...lines.flatMap((line) => ['-c', line]), path])
    expect(outcome.stdout).toBe('write failed: No space left on device\n')
    expect(outcome.status).toBe(1)
    writeFileSync(path, '')
  })
})

/** What was flushed is there, and the image passes the checks of both programs. */
async function expectIntact(path: string, flushed: number, step: number): Promise<void> {
  const safe = newName()
  copyFileSync(path, safe)
  writeFileSync(path, '')
  {
    await using disk = await openDisk(safe, { format: 'qcow2' })
    for (let at = 0; at < flushed; at += step) {
      const target = Buffer.alloc(step)
      await disk.read(at, target)
      expect(target.equals(Buffer.alloc(step, (at / step) % 251)), `${at}`).toBe(true)
    }
    await disk.write(flushed + MiB, Buffer.alloc(100_000, 9))
  }
  // Leaked clusters are allowed, errors are not.
  const checked = await runOurs(folder, ['check', safe])
  expect([0, 3], checked.stdout).toContain(checked.status)
  if (qemuImg.path) expect([0, 3]).toContain((await qemuImg.try('check', safe)).status)
}

qemuIo.describe('a second writer', () => {
  const lockMessage = /Failed to get .*lock/

  test.each(['raw', 'qcow2'])('is kept off by a disk of ours: %s', async (format) => {
    const path = newName(format)
    if (format === 'raw') writeFileSync(path, Buffer.alloc(MiB))
    else await create(path)
    await using _ = await openDisk(path, { format })
    const [writing, reading] = ['write 0 512', 'read 0 512'].map((line) => [
      '-f',
      format,
      '-c',
      line,
      path,
    ])
    // Raw disks are shared, as QEMU's are: it is for the users of a guest's disk to agree.
    const shared = format === 'raw'
    const ends = {
      status: shared ? 0 : 1,
      stderr: shared ? '' : expect.stringMatching(lockMessage),
    }
    expect(await qemuIo.try(...writing)).toMatchObject(ends)
    expect(await varveIo(writing)).toMatchObject(ends)
    const unlocked = await qemuIo.try('-r', '-U', ...reading)
    expect(unlocked).toMatchObject({ status: 0, stderr: '' })
    expect(await varveIo(['-r', '-U', ...reading])).toMatchObject({ status: 0, stderr: '' })
  })

  test('is kept off by qemu-io, with its words', async () => {
    const path = await create(newName())
    await using _ = await QemuIoSession.open('-f', 'qcow2', path)
    for (const readOnly of [true, false]) {
      const error = await openingFails(path, { readOnly })
      expect(error.message).toMatch(lockMessage)
      expect(isClear(error)).toBe(true)
    }
    for (const args of [
      ['info', path],
      ['check', path],
      ['map', path],
    ]) {
      const ours = await runOurs(folder, args)
      const theirs = await qemuImg.try(...args)
      expect(ours.status).toBe(theirs.status)
      expect(ours.stderr).toBe(theirs.stderr)
    }
    const writing = ['-c', 'write 0 512', path]
    expect((await varveIo(writing)).stderr).toBe((await qemuIo.try(...writing)).stderr)
    expect((await runOurs(folder, ['info', '-U', path])).status).toBe(0)
    expect((await runOurs(folder, ['map', '-U', path])).status).toBe(0)
    expect(await varveIo(['-r', '-U', '-c', 'length', path])).toMatchObject({ status: 0 })
    const options = { 'force-share': true }
    await using disk = await openDisk(path, { format: 'qcow2', readOnly: true, options })
    expect(disk.size).toBe(MiB)
  })

  test('may come when the first has gone', async () => {
    const path = await create(newName())
    {
      await using disk = await openDisk(path, { format: 'qcow2' })
      await disk.write(0, Buffer.alloc(512, 1))
    }
    const lines = ['read -P 1 0 512', 'write -P 2 0 512'].flatMap((line) => ['-c', line])
    expect((await qemuIo.try(...lines, path)).status).toBe(0)
    await using disk = await openDisk(path, { format: 'qcow2' })
    const target = Buffer.alloc(512)
    await disk.read(0, target)
    expect(target).toEqual(Buffer.alloc(512, 2))
  })

  test('inside this process is kept off as well', async () => {
    const path = await create(newName())
    await using _ = await openDisk(path, { format: 'qcow2' })
    const error = await openingFails(path, { readOnly: false })
    expect(isClear(error)).toBe(true)
  })
})
