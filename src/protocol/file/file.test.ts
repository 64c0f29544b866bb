import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, describe, expect, it } from 'vitest'
import { type Subject, testLayer } from '../../../test/conformance/layer.ts'
import { openContext } from '../../../test/support/context.ts'
import type { OpenFlags } from '../../block/driver.ts'
import { neverAborted, plainIo, plainWriteIo, plainZeroIo } from '../../block/layer.ts'
import { allPermissions, type Permission } from '../../block/permission.ts'
import { MiB, TiB } from '../../bytes/range.ts'
import { openKoffiSys } from '../../sys/koffi-sys.ts'
import { nodeSys } from '../../sys/node-sys.ts'
import type { Sys } from '../../sys/sys.ts'
import { createFile, fileCreator } from './create.ts'
import { file, openFileLayer } from './driver.ts'
import type { FileLayer } from './file-layer.ts'

const folder = mkdtempSync(join(tmpdir(), 'varve-file-'))
afterAll(() => rmSync(folder, { recursive: true }))

let count = 0
function newPath(): string {
  return join(folder, `disk${count++}.raw`)
}

const koffi = openKoffiSys()
const implementations: Sys[] = koffi ? [nodeSys, koffi] : [nodeSys]

/** A new file of `size` bytes, opened. */
async function open(
  sys: Sys,
  size: number,
  flags: Partial<OpenFlags> = {},
  path: string = newPath(),
): Promise<FileLayer> {
  await createFile(fileCreator.parse({ filename: path, size }), { signal: neverAborted }, sys)
  return reopen(sys, path, flags)
}

function reopen(sys: Sys, path: string, flags: Partial<OpenFlags> = {}): Promise<FileLayer> {
  return openFileLayer('file', file.parse({ filename: path }), openContext(flags), sys)
}

async function subject(sys: Sys, size: number, flags: Partial<OpenFlags>): Promise<Subject> {
  const path = newPath()
  let layer = await open(sys, size, flags, path)
  return {
    layer,
    async reopen() {
      await layer[Symbol.asyncDispose]()
      layer = await reopen(sys, path, flags)
      return layer
    },
    async [Symbol.asyncDispose]() {
      await layer[Symbol.asyncDispose]()
      rmSync(path)
    },
  }
}

for (const sys of implementations) {
  testLayer(`file (${sys.name})`, (size) => subject(sys, size, {}), { size: 1_310_001 })
  testLayer(
    `file past the page cache (${sys.name})`,
    (size) => subject(sys, size, { direct: true }),
    { size: 1284 * 1024 },
  )
}

for (const sys of implementations) {
  describe(`file (${sys.name})`, () => {
    it('shows and changes the bytes of the file', async () => {
      const path = newPath()
      writeFileSync(path, 'sediment')
      await using layer = await reopen(sys, path)
      const target = new Uint8Array(10).fill(1)
      await layer.read(2, target, plainIo)
      expect(Buffer.from(target).toString()).toBe('diment\0\0\0\0')
      await layer.write(0, Buffer.from('v'), plainWriteIo)
      expect(readFileSync(path, 'latin1')).toBe('vediment')
    })

    it('grows when written or zeroed behind its end', async () => {
      await using layer = await open(sys, 0)
      await layer.write(100, Uint8Array.of(1, 2, 3), plainWriteIo)
      expect(layer.size).toBe(103)
      await layer.writeZeroes(200, 50, plainZeroIo)
      expect(layer.size).toBe(250)
      expect(statSync(layer.image.filename!).size).toBe(250)
    })

    it('loses nothing when several requests make it longer at once', async () => {
      await using layer = await open(sys, 0)
      const zeroIo = { ...plainZeroIo, mayUnmap: true }
      await Promise.all([
        layer.writeZeroes(0, MiB, zeroIo),
        layer.write(2 * MiB, new Uint8Array(MiB).fill(5), plainWriteIo),
        layer.writeZeroes(MiB, MiB, zeroIo),
        layer.write(3 * MiB, new Uint8Array(200).fill(6), plainWriteIo),
      ])
      const tail = new Uint8Array(MiB + 200)
      await layer.read(2 * MiB, tail, plainIo)
      expect(layer.size).toBe(3 * MiB + 200)
      expect(tail.subarray(0, MiB).every((byte) => byte === 5)).toBe(true)
      expect(tail.subarray(MiB).every((byte) => byte === 6)).toBe(true)
    })

    it('reads zeroes where another process has cut the file', async () => {
      await using layer = await open(sys, 8192)
      await layer.write(0, new Uint8Array(8192).fill(1), plainWriteIo)
      truncateSync(layer.image.filename!, 100)
      const target = new Uint8Array(300).fill(9)
      await layer.read(0, target, plainIo)
      expect(target.lastIndexOf(1)).toBe(99)
      expect(target[100]).toBe(0)
    })

    it('refuses writes when it is read-only, and any work when closed', async () => {
      const layer = await open(sys, 4096, { readOnly: true })
      const write = async () => layer.write(0, new Uint8Array(1), plainWriteIo)
      await expect(write()).rejects.toMatchObject({ code: 'READ_ONLY' })
      await layer[Symbol.asyncDispose]()
      const read = async () => layer.read(0, new Uint8Array(1), plainIo)
      await expect(read()).rejects.toMatchObject({ code: 'CLOSED' })
    })

    it('can be closed while requests are on their way', async () => {
      const layer = await open(sys, 4 * MiB)
      const pending = layer.write(0, new Uint8Array(4 * MiB).fill(1), plainWriteIo)
      await layer[Symbol.asyncDispose]()
      await pending
      expect(readFileSync(layer.image.filename!).every((byte) => byte === 1)).toBe(true)
    })

    it('tells how much space is taken', async () => {
      await using layer = await open(sys, TiB)
      await layer.write(5 * MiB, new Uint8Array(MiB).fill(1), plainWriteIo)
      await layer.flush(plainIo)
      const allocated = await layer.image.allocatedSize!()
      expect(allocated).toBeGreaterThanOrEqual(MiB)
      expect(allocated).toBeLessThan(3 * MiB)
    })

    it('names file, number and reason when it cannot open', async () => {
      await expect(reopen(sys, join(folder, 'absent'))).rejects.toMatchObject({
        code: 'IO',
        errno: 'ENOENT',
        message: `Could not open '${join(folder, 'absent')}': No such file or directory`,
      })
      await expect(reopen(sys, folder)).rejects.toMatchObject({ errno: 'EISDIR' })
      await expect(reopen(sys, '/dev/null')).rejects.toThrowError(/to be a regular file/)
    })

    it('opens a descriptor by its name', async () => {
      await using layer = await open(sys, 4096)
      await layer.write(0, Uint8Array.of(42), plainWriteIo)
      const handle = await (await import('node:fs/promises')).open(layer.image.filename!, 'r+')
      await using again = await reopen(sys, `/dev/fd/${handle.fd}`)
      const target = new Uint8Array(1)
      await again.read(0, target, plainIo)
      expect(target[0]).toBe(42)
      await handle.close()
    })

    it('preallocates', async () => {
      for (const preallocation of ['falloc', 'full']) {
        const options = fileCreator.parse({ filename: newPath(), size: '300k', preallocation })
        await createFile(options, { signal: neverAborted }, sys)
        const { size, blocks } = statSync(options.filename)
        expect(size).toBe(300 * 1024)
        expect(blocks * 512).toBeGreaterThanOrEqual(300 * 1024)
      }
    })
  })
}

describe.skipIf(!koffi)('file with cached reads', () => {
  it('answers what is in the page cache without a promise', async () => {
    await using layer = await open(koffi!, MiB)
    const source = new Uint8Array(MiB).map((_, index) => index % 253)
    await layer.write(0, source, plainWriteIo)
    const target = new Uint8Array(128 * 1024)
    expect(layer.read(300_000, target, plainIo)).toBeUndefined()
    expect(Buffer.compare(target, source.subarray(300_000, 300_000 + target.length))).toBe(0)
  })

  it('reads the rest from the disk when only the first part is in the cache', async () => {
    const path = newPath()
    const source = new Uint8Array(256 * 1024).map((_, index) => index % 253)
    writeFileSync(path, source, { flush: true })
    await dropCache(path)
    await using layer = await reopen(koffi!, path)
    // Writing whole pages puts them, and no others, into the cache.
    await layer.write(0, source.subarray(0, 8192), plainWriteIo)
    const target = new Uint8Array(source.length)
    await layer.read(0, target, plainIo)
    expect(Buffer.compare(target, source)).toBe(0)
  })
})

/** Throws the file out of the page cache, as far as `dd` can. */
async function dropCache(path: string): Promise<void> {
  await promisify(execFile)('dd', [`if=${path}`, 'iflag=nocache', 'count=0', 'status=none'])
}

describe.skipIf(!koffi)('file with holes', () => {
  it('finds them, makes them, and forgets none', async () => {
    await using layer = await open(koffi!, 16 * MiB)
    await layer.write(4 * MiB, new Uint8Array(8 * MiB).fill(1), plainWriteIo)
    expect(layer.extentAt(4 * MiB, 12 * MiB, plainIo)).toMatchObject({
      kind: 'data',
      length: 8 * MiB,
    })
    await layer.discard(6 * MiB, 2 * MiB, plainIo)
    expect(layer.extentAt(4 * MiB, 12 * MiB, plainIo)).toMatchObject({
      kind: 'data',
      length: 2 * MiB,
    })
    expect(layer.extentAt(6 * MiB, 10 * MiB, plainIo)).toEqual({
      kind: 'zero',
      offset: 6 * MiB,
      length: 2 * MiB,
      allocated: false,
    })
    await layer.writeZeroes(4 * MiB, MiB, { ...plainZeroIo, mayUnmap: true })
    expect(layer.extentAt(4 * MiB, MiB, plainIo)).toMatchObject({ kind: 'zero' })
  })
})

describe.skipIf(!koffi)('image locks', () => {
  const all = new Set<Permission>(allPermissions)
  const none = new Set<Permission>()
  const set = (...permissions: Permission[]) => new Set(permissions)

  it('let any number of readers in, and refuse a writer that does not share', async () => {
    const path = newPath()
    await using one = await open(koffi!, 4096, {}, path)
    await using two = await reopen(koffi!, path, { readOnly: true })
    one.locks!.update(set('consistentRead'), all)
    two.locks!.update(set('consistentRead'), all)
    const share = set('consistentRead', 'writeUnchanged')
    two.locks!.update(set('consistentRead'), share)
    expect(() => one.locks!.update(set('consistentRead', 'write'), all)).toThrowError(
      expect.objectContaining({
        code: 'BUSY',
        message: `Failed to get "write" lock\nIs another process using the image [${path}]?`,
      }),
    )
    two.locks!.update(none, all)
    one.locks!.update(set('consistentRead', 'write'), all)
    expect(() => two.locks!.update(none, share)).toThrowError(/^Failed to get shared "write" lock/)
  })

  it('keep the former locks when an update fails', async () => {
    const path = newPath()
    await using one = await open(koffi!, 4096, {}, path)
    await using two = await reopen(koffi!, path)
    await using three = await reopen(koffi!, path)
    one.locks!.update(set('write'), set('consistentRead'))
    expect(() => two.locks!.update(set('resize', 'consistentRead'), none)).toThrowError(/lock/)
    // Of the second nothing is left, of the first everything.
    three.locks!.update(set('consistentRead'), all)
    expect(() => three.locks!.update(set('write'), all)).toThrowError(/"write" lock/)
    one.locks!.update(none, all)
    three.locks!.update(set('write'), none)
  })

  it('are absent when switched off', async () => {
    const path = newPath()
    await (await open(koffi!, 4096, {}, path))[Symbol.asyncDispose]()
    const options = file.parse({ filename: path, locking: 'off' })
    await using layer = await openFileLayer('file', options, openContext(), koffi!)
    expect(layer.locks).toBeUndefined()
  })

  it('keep a file in use from being created anew', async () => {
    const path = newPath()
    await using one = await open(koffi!, 4096, {}, path)
    one.locks!.update(set('write'), set('consistentRead'))
    const again = open(koffi!, 100, {}, path)
    await expect(again).rejects.toMatchObject({ code: 'BUSY' })
    expect(statSync(path).size).toBe(4096)
  })
})

describe('file options', () => {
  it('take what QEMU takes and refuse the rest by name', () => {
    expect(
      file.parse({ filename: 'a', aio: 'io_uring', locking: 'off', 'drop-cache': true }),
    ).toEqual({
      filename: 'a',
      aio: 'io_uring',
      locking: 'off',
    })
    expect(() => file.parse({})).toThrowError(`The 'file' block driver requires a file name`)
    expect(() => file.parse({ filename: 'a', 'pr-manager': 'p' })).toThrowError(/pr-manager/)
    expect(() => file.parse({ filename: 'a', bogus: 1 })).toThrowError(/bogus/)
  })

  it('know their prefix, and leave plain paths to the graph', () => {
    expect(file.parseFilename!('file:/a/b')).toEqual({ driver: 'file', filename: '/a/b' })
    expect(file.parseFilename!('./a:b')).toBeUndefined()
    expect(file.parseFilename!('nbd://host')).toBeUndefined()
  })

  it('demand O_DIRECT for aio=native', async () => {
    const options = file.parse({ filename: newPath(), aio: 'native' })
    await expect(file.open(options, openContext())).rejects.toThrowError(/cache.direct=on/)
  })
})
