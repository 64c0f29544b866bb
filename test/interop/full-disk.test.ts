/**
 * Images on a disk that becomes full: what has failed takes no space away from what would still fit,
 * and whatever was acknowledged can be flushed.
 */
import { execFileSync } from 'node:child_process'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeEach, expect, it } from 'vitest'
import { openDisk } from '../../src/disk.ts'
import { scratchFolder } from '../support/folder.ts'
import { qemuIo, realIo, varveIo } from '../support/io-tools.ts'
import { mountTmpfs } from './mounts.ts'

const KiB = 1024
const MiB = 1024 * KiB
/** So large that the refcount table of clusters of 512 bytes has to grow before. */
const room = 10 * MiB
const full = mountTmpfs(join(scratchFolder('full-disk'), 'full'), room)
const image = join(full.path ?? '', 'image.qcow2')

afterAll(() => full.down())

function create(options: string): void {
  rmSync(image, { force: true })
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-o', options, image, '64M'])
}

function check(): string {
  return execFileSync('qemu-img', ['check', image], { encoding: 'utf8' })
}

qemuIo.describe('a full disk', () => {
  beforeEach((context) => {
    if (full.path === undefined) context.skip(full.refused)
  })

  it.each(['cluster_size=512', 'cluster_size=4k', 'cluster_size=64k', 'extended_l2=on'])(
    'takes what fits after a write that did not, all that qemu-io does: %s',
    async (options) => {
      const commands = [
        'write 5M 11M',
        'write 0 64k',
        'write 128k 4k',
        'write 40M 12M',
        'write 60M 512',
      ]
      const args = [...commands.flatMap((command) => ['-c', command]), image]
      create(options)
      const theirs = await realIo(args)
      create(options)
      const ours = await varveIo(args)
      expect(theirs.stdout).toContain('write failed: No space left on device')
      for (const written of theirs.stdout.match(/^wrote.*$/gm) ?? []) {
        expect(ours.stdout).toContain(written)
      }
      expect(ours.stderr).toBe('')
      expect(check()).toContain('No errors were found')
    },
  )

  it.each(['cluster_size=512', 'cluster_size=4k', 'cluster_size=64k'])(
    'can flush what was acknowledged: %s',
    async (options) => {
      create(options)
      const step = 32 * KiB
      let written = 0
      {
        await using disk = await openDisk(image, { format: 'qcow2' })
        for (let at = 0; at < 64 * MiB; at += step) {
          try {
            await disk.write(at, Buffer.alloc(step, 1 + ((at / step) % 251)))
          } catch (error) {
            expect(error).toMatchObject({ code: 'NO_SPACE' })
            break
          }
          written = at + step
        }
        await disk.flush()
      }
      expect(written).toBeGreaterThan(room / 2)
      expect(check()).toContain('No errors were found')
      await using disk = await openDisk(image, { format: 'qcow2', readOnly: true })
      for (let at = 0; at < written; at += step) {
        const found = Buffer.alloc(step)
        await disk.read(at, found)
        expect(found.equals(Buffer.alloc(step, 1 + ((at / step) % 251))), `at ${at}`).toBe(true)
      }
    },
  )
})
