/** Files and devices on storage with a will of its own: full, of large blocks, not a file at all. */
import { readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, describe, expect, it } from 'vitest'
import { plainIo, plainWriteIo, plainZeroIo } from '../../src/block/layer.ts'
import { KiB, MiB } from '../../src/bytes/range.ts'
import { file, openFileLayer } from '../../src/protocol/file/driver.ts'
import { openKoffiSys } from '../../src/sys/koffi-sys.ts'
import { nodeSys } from '../../src/sys/node-sys.ts'
import { testLayer } from '../conformance/layer.ts'
import { peer } from '../peers.ts'
import { openContext } from '../support/context.ts'
import { scratchFolder } from '../support/folder.ts'
import { loopDevice, mountTmpfs, type Setup } from './mounts.ts'

const folder = scratchFolder('storage')
const qemuImg = peer('qemu-img')
const koffi = openKoffiSys()
const implementations = koffi ? [koffi, nodeSys] : [nodeSys]

const full = mountTmpfs(join(folder, 'small'), MiB)
const loop = loopDevice(join(folder, 'loop.raw'), 2 * MiB)
const largeBlocks = loopDevice(join(folder, 'loop-4k.raw'), 2 * MiB, 4096)
afterAll(() => {
  for (const setup of [full, loop, largeBlocks]) setup.down()
})

/** A `describe` that says why it is skipped. */
function withSetup(setup: Setup, title: string, body: (path: string) => void): void {
  const { path } = setup
  if (path !== undefined) describe(title, () => body(path))
  else describe.skip(`${title} [skipped: ${setup.refused}]`, () => it('needs it', () => {}))
}

for (const sys of implementations) {
  withSetup(full, `a full file system (${sys.name})`, (mount) => {
    async function open(name: string, size: number) {
      const filename = join(mount, name)
      await file.creator!.create(file.creator!.parse({ filename, size }), openContext())
      return openFileLayer('file', file.parse({ filename }), openContext(), sys)
    }

    it('gives NO_SPACE to writes, and keeps what was there', async () => {
      await using layer = await open(`write-${sys.name}`, 4 * MiB)
      const kept = new Uint8Array(64 * KiB).fill(1)
      await layer.write(0, kept, plainWriteIo)
      for (const length of [4 * KiB, 512 * KiB, 2 * MiB]) {
        const write = async () => {
          for (let at = MiB; at + length <= 4 * MiB; at += length) {
            await layer.write(at, new Uint8Array(length).fill(2), plainWriteIo)
          }
        }
        await expect(write()).rejects.toMatchObject({ code: 'NO_SPACE', errno: 'ENOSPC' })
        const found = new Uint8Array(64 * KiB)
        await layer.read(0, found, plainIo)
        expect(found).toEqual(kept)
        await layer.truncate(MiB, plainIo)
        await layer.truncate(4 * MiB, plainIo)
      }
      await layer.truncate(0, plainIo)
    })

    it('gives NO_SPACE to zeroes that must be stored, and none to those that need not', async () => {
      await using layer = await open(`zero-${sys.name}`, 4 * MiB)
      const zero = async (mayUnmap: boolean) =>
        layer.writeZeroes(0, 4 * MiB, { ...plainZeroIo, mayUnmap })
      await expect(zero(false)).rejects.toMatchObject({ code: 'NO_SPACE' })
      if (sys.supported.fallocate) await zero(true)
      await layer.truncate(0, plainIo)
    })

    it('gives NO_SPACE to preallocation', async () => {
      for (const preallocation of ['falloc', 'full']) {
        const filename = join(mount, preallocation)
        const options = file.creator!.parse({ filename, size: 4 * MiB, preallocation })
        await expect(file.creator!.create(options, openContext())).rejects.toMatchObject({
          code: 'NO_SPACE',
          path: filename,
        })
        await file.creator!.create(file.creator!.parse({ filename, size: 0 }), openContext())
      }
    })
  })
}

withSetup(loop, 'a block device', (device) => {
  const options = file.parse({ filename: device })

  for (const sys of implementations) {
    for (const direct of [false, true]) {
      const title = `host_device${direct ? ' past the page cache' : ''} (${sys.name})`
      testLayer(title, async () => {
        const layer = await openFileLayer('device', options, openContext({ direct }), sys)
        const content = new Uint8Array(layer.size)
        await layer.read(0, content, plainIo)
        return { layer, content, [Symbol.asyncDispose]: () => layer[Symbol.asyncDispose]() }
      })
    }
  }

  it('has the size of the device and ends there', async () => {
    for (const sys of implementations) {
      await using layer = await openFileLayer('device', options, openContext(), sys)
      expect(layer.size).toBe(2 * MiB)
      const beyond = async () => layer.write(2 * MiB - 1, new Uint8Array(2), plainWriteIo)
      await expect(beyond()).rejects.toMatchObject({ code: 'NO_SPACE' })
      await expect(layer.truncate(3 * MiB, plainIo)).rejects.toMatchObject({ code: 'UNSUPPORTED' })
    }
  })

  it.skipIf(!koffi)('hands discards on', async () => {
    await using layer = await openFileLayer('device', options, openContext(), koffi!)
    await layer.write(0, new Uint8Array(MiB).fill(1), plainWriteIo)
    await layer.flush(plainIo)
    const backing = join(folder, 'loop.raw')
    const before = statSync(backing).blocks
    await layer.discard(0, MiB, plainIo)
    expect(statSync(backing).blocks).toBeLessThan(before)
  })

  it('is not a file, nor is a file a device', async () => {
    const context = openContext()
    await expect(file.open(options, context)).rejects.toThrowError(/to be a regular file/)
    const other = file.parse({ filename: join(folder, 'loop.raw') })
    await expect(openFileLayer('device', other, context, implementations[0])).rejects.toThrowError(
      /to be either a character or block device/,
    )
  })
})

withSetup(largeBlocks, 'a device with blocks of 4 KiB', (device) => {
  it('is found to need that alignment past the page cache', async () => {
    const options = file.parse({ filename: device })
    for (const sys of implementations) {
      await using layer = await openFileLayer('device', options, openContext({ direct: true }), sys)
      expect(layer.limits.alignment).toBe(4096)
    }
  })
})

describe('O_DIRECT', () => {
  it('is what the descriptor says', async () => {
    const filename = join(folder, 'direct.raw')
    await file.creator!.create(file.creator!.parse({ filename, size: MiB }), openContext())
    for (const sys of implementations) {
      await using layer = await openFileLayer(
        'file',
        file.parse({ filename }),
        openContext({ direct: true }),
        sys,
      )
      expect(flagsOfOpenFile(filename)).toContain('direct')
      expect([512, 1024, 2048, 4096]).toContain(layer.limits.alignment)
    }
  })

  qemuImg.it('writes what qemu-img reads', async () => {
    const one = join(folder, 'written-direct.raw')
    const other = join(folder, 'written-buffered.raw')
    const bytes = new Uint8Array(3 * MiB).map((_, index) => index % 251)
    for (const [filename, direct] of [
      [one, true],
      [other, false],
    ] as const) {
      await file.creator!.create(file.creator!.parse({ filename, size: 4 * MiB }), openContext())
      await using layer = await file.open(file.parse({ filename }), openContext({ direct }))
      await layer.write(MiB / 2, bytes, plainWriteIo)
    }
    await qemuImg.run('compare', '-f', 'raw', '-F', 'raw', one, other)
  })
})

/** Octal flags of this process's descriptors of a file, in words. */
function flagsOfOpenFile(path: string): string[] {
  const { ino } = statSync(path)
  const words: string[] = []
  for (let fd = 3; fd < 200; fd++) {
    try {
      if (statSync(`/proc/self/fd/${fd}`).ino !== ino) continue
      const flags = /flags:\s*(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'))?.[1]
      if (flags && Math.floor(Number.parseInt(flags, 8) / 0o40000) % 2 === 1) words.push('direct')
    } catch {
      // No such descriptor.
    }
  }
  return words
}
