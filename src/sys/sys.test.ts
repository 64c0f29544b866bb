import { execFileSync } from 'node:child_process'
import { closeSync, ftruncateSync, mkdtempSync, openSync, read, rmSync, writeSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openKoffiSys } from './koffi-sys.ts'
import { nodeSys } from './node-sys.ts'
import { notOffered, type Sys } from './sys.ts'

const MiB = 1024 * 1024

let folder: string
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'varve-sys-'))
})
afterEach(() => rmSync(folder, { recursive: true }))

function open(name = 'file'): number {
  return openSync(join(folder, name), 'a+')
}

const implementations: [string, Sys | undefined][] = [
  ['node', nodeSys],
  ['koffi', openKoffiSys()],
]

for (const [name, sys] of implementations) {
  describe.skipIf(!sys)(`sys/${name}`, () => {
    const s = sys as Sys

    it('says who it is', () => {
      expect(s.name).toBe(name)
    })

    it('gives aligned memory that the file system can read into', async () => {
      const fd = open()
      writeSync(fd, 'varve')
      const memory = s.alignedMemory(8192, 4096)
      expect(memory.length).toBe(8192)
      expect(s.isAlignedMemory(memory, 4096)).toBe(true)
      expect(s.isAlignedMemory(memory.subarray(512), 512)).toBe(true)
      expect(s.isAlignedMemory(memory.subarray(1), 512)).toBe(false)
      const { bytesRead } = await promisify(read)(fd, memory, 0, 8192, 0)
      expect(Buffer.from(memory.subarray(0, bytesRead)).toString()).toBe('varve')
      closeSync(fd)
    })

    it('knows whether something has come through a pipe', () => {
      const path = join(folder, 'pipe')
      execFileSync('mkfifo', [path])
      const fd = openSync(path, 'r+')
      expect(s.isReadable(fd)).toBe(false)
      writeSync(fd, 'varve')
      expect(s.isReadable(fd)).toBe(s.name === 'koffi')
      closeSync(fd)
    })

    it('takes the hint to write out, whatever the file', async () => {
      const fd = open()
      writeSync(fd, 'varve')
      await s.startWriteback(fd, 0, MiB)
      closeSync(fd)
      await s.startWriteback(fd, 0, MiB)
    })

    it('gives back free memory, or does not, and never fails', async () => {
      await Promise.all([s.returnFreeMemory(), s.returnFreeMemory()])
    })

    it('refuses by errno what it cannot do', async () => {
      const fd = open()
      const calls: [boolean, () => unknown][] = [
        [s.supported.holes, () => s.seekHole(fd, 0)],
        [s.supported.locks, () => s.shareLock(fd, 100)],
        [s.supported.fallocate, () => s.fallocate(fd, 'allocate', 0, 4096)],
      ]
      for (const [supported, call] of calls) {
        if (!supported)
          await expect((async () => call())()).rejects.toMatchObject({ code: 'ENOTSUP' })
      }
      if (!s.supported.cachedReads) {
        expect(s.readCached(fd, new Uint8Array(1), 0)).toBe(notOffered)
      }
      closeSync(fd)
    })

    it.skipIf(!s?.supported.holes)('finds holes and data', () => {
      const fd = open()
      ftruncateSync(fd, 4 * MiB)
      expect(s.seekData(fd, 0)).toBeUndefined()
      expect(s.seekHole(fd, 4 * MiB)).toBeUndefined()
      expect(s.seekEnd(fd)).toBe(4 * MiB)
      closeSync(fd)
    })

    it.skipIf(!s?.supported.fallocate)('allocates, zeroes, and punches holes', async () => {
      const fd = open()
      await s.fallocate(fd, 'allocate', 0, MiB)
      expect(s.seekEnd(fd)).toBe(MiB)
      await s.fallocate(fd, 'zero-extend', MiB, MiB)
      expect(s.seekEnd(fd)).toBe(2 * MiB)
      await s.fallocate(fd, 'punch', 0, 2 * MiB)
      expect(s.seekData(fd, 0)).toBeUndefined()
      closeSync(fd)
    })

    it.skipIf(!s?.supported.fallocate)('reports the errno of a call made in the pool', async () => {
      const fd = openSync(join(folder, 'read-only'), 'w')
      const readOnly = openSync(join(folder, 'read-only'), 'r')
      await expect(s.fallocate(readOnly, 'allocate', 0, 1)).rejects.toMatchObject({ code: 'EBADF' })
      closeSync(readOnly)
      closeSync(fd)
    })

    it.skipIf(!s?.supported.fallocate)('takes more calls at once than the pool', async () => {
      const fd = open()
      await Promise.all(
        Array.from({ length: 100 }, (_, i) => s.fallocate(fd, 'allocate', i * 4096, 4096)),
      )
      expect(s.seekEnd(fd)).toBe(100 * 4096)
      closeSync(fd)
    })

    it.skipIf(!s?.supported.cachedReads)('reads what was just written from the cache', () => {
      const fd = open()
      writeSync(fd, 'sediment')
      const target = new Uint8Array(32)
      const got = s.readCached(fd, target.subarray(4, 20), 3)
      // A file system that keeps no page cache may refuse; it never answers wrongly.
      if (got !== notOffered) {
        expect(got).toBe(5)
        expect(Buffer.from(target.subarray(4, 9)).toString()).toBe('iment')
        expect(target[3]).toBe(0)
        expect(target[9]).toBe(0)
        expect(s.readCached(fd, target, 8)).toBe(0)
      }
      closeSync(fd)
    })

    it.skipIf(!s?.supported.locks)('sees the locks of other open files, not its own', () => {
      const one = open()
      const two = open()
      expect(s.shareLock(one, 100)).toBe(true)
      expect(s.lockedElsewhere(one, 100)).toBe(false)
      expect(s.lockedElsewhere(two, 100)).toBe(true)
      expect(s.lockedElsewhere(two, 101)).toBe(false)
      expect(s.shareLock(two, 100)).toBe(true)
      s.unlock(one, 100)
      expect(s.lockedElsewhere(two, 100)).toBe(false)
      closeSync(one)
      closeSync(two)
    })
  })
}
