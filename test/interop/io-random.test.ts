/** The same random scripts for `varve io` and qemu-io leave the same disk. */
import { copyFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { qcow2Kinds, raw } from '../support/io-pair.ts'
import { realIo, varveIo } from '../support/io-tools.ts'
import { Random, seedNote } from '../support/random.ts'

const folder = scratchFolder('io-random')
const qemuImg = peer('qemu-img', 'qemu-io')
let images = 0

/** Lines of a script, whose bytes depend on the seed alone. */
function randomScript(random: Random, size: number, count: number): string[] {
  return Array.from({ length: count }, () => {
    const [offset, length] = random.range(size, random.pick([1, 512, 4096]), 256 * 1024)
    const pattern = random.below(256)
    return random.pick([
      `write -P ${pattern} ${offset} ${length}`,
      `writev -P ${pattern} ${offset} ${length}`,
      `write -f -P ${pattern} ${offset} ${length}`,
      `write -z ${offset} ${length}`,
      `write -zu ${offset} ${length}`,
      `read ${offset} ${length}`,
      'flush',
    ])
  })
}

qemuImg.describe('random scripts', () => {
  test(`leave the same raw disk (${seedNote})`, async () => {
    const random = new Random()
    const theirs = join(folder, 'theirs.raw')
    const ours = join(folder, 'ours.raw')
    raw(theirs)
    copyFileSync(theirs, ours)
    const script = randomScript(random, 1024 * 1024, 120).join('\n')
    const expected = await realIo(['-f', 'raw', theirs], script)
    expect(await varveIo(['-f', 'raw', ours], script)).toEqual(expected)
    await qemuImg.run('compare', '-f', 'raw', '-F', 'raw', theirs, ours)
  })

  for (const [kind, options] of Object.entries(qcow2Kinds)) {
    test(`leave the same chain of qcow2 images, ${kind} (${seedNote})`, async () => {
      const random = new Random()
      const base = join(folder, `base${images++}.qcow2`)
      await qemuImg.run('create', '-q', '-f', 'qcow2', '-o', options, base, '700k')
      await realIo([base], randomScript(random, 700 * 1024, 20).join('\n'))
      const [theirs, ours] = [`${base}.theirs`, `${base}.ours`]
      for (const overlay of [theirs, ours]) {
        const create = ['create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', '-o', options]
        await qemuImg.run(...create, overlay, '1M')
      }
      const script = randomScript(random, 1024 * 1024, 120).join('\n')
      const expected = await realIo([theirs], script)
      expect(await varveIo([ours], script)).toEqual(expected)
      await qemuImg.run('compare', theirs, ours)
      await qemuImg.run('check', '-q', ours)
    })
  }

  test(`that keep many requests in flight leave what they wrote (${seedNote})`, async () => {
    const random = new Random()
    const image = join(folder, 'flight.raw')
    raw(image)
    const parts = Array.from({ length: 64 }, (_, at) => ({
      at: at * 16384,
      pattern: random.below(256),
    }))
    const lines = [
      ...parts.map(({ at, pattern }) => `aio_write -q -P ${pattern} ${at} 8k 8k`),
      'aio_flush',
      ...parts.map(({ at, pattern }) => `aio_read -q -P ${pattern} ${at} 16k`),
    ]
    const outcome = await varveIo(['-f', 'raw', image], lines.join('\n'))
    expect(outcome.stdout.replaceAll('qemu-io> ', '')).toBe('')
    const checks = parts.map(({ at, pattern }) => `read -q -P ${pattern} ${at} 16k`)
    expect(await realIo(['-f', 'raw', image], checks.join('\n'))).toMatchObject({ status: 0 })
  })
})
