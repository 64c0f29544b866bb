/** Preallocation when images are made and when they are resized, against the real qemu-img. */
import { statSync } from 'node:fs'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { Pair, runTheirs } from '../support/img.ts'

const qemu = peer('qemu-img', 'qemu-io')
const modes = ['off', 'metadata', 'falloc', 'full']

let pair: Pair
beforeEach(() => {
  pair = new Pair()
})
afterEach(() => pair[Symbol.dispose]())

/** Sound, equal, allocated from `from` on where the other is, and taking about the same space. */
async function alike(image: string, from = Number.POSITIVE_INFINITY, note?: string): Promise<void> {
  const checked = await runTheirs(pair.ours, ['check', image])
  expect(checked, note).toMatchObject({ status: 0, stderr: '' })
  const compared = await runTheirs(pair.ours, ['compare', image, `${pair.theirs}/${image}`])
  expect(compared.stdout, note).toBe('Images are identical.\n')
  for (const { start, length, present } of await runs(image)) {
    if (start >= from && length > 0) expect({ start, present }).toEqual({ start, present: true })
  }
  const difference = spaceOf(pair.ours, image) - spaceOf(pair.theirs, image)
  expect(Math.abs(difference)).toBeLessThan(1024 * 1024)
}

async function runs(image: string): Promise<{ start: number; length: number; present: boolean }[]> {
  const { stdout } = await runTheirs(pair.ours, ['map', '--output=json', image])
  return JSON.parse(stdout)
}

/** Where space that is taken at once begins. Kept clusters whose subclusters are not there do not show. */
function taken(mode: string, from: number): number {
  return mode.startsWith('off') || mode.includes('extended_l2') ? Number.POSITIVE_INFINITY : from
}

/** What the cluster has in which the disk ends. */
const hadBefore: readonly (readonly (readonly string[])[])[] = [
  [],
  [['qemu-io', '-c', 'write -P 3 70k 2k']],
  [['qemu-io', '-c', 'write -z 64k 16k']],
  [
    ['qemu-io', '-c', 'write -P 3 64k 16k'],
    ['qemu-io', '-c', 'write -z 64k 16k'],
  ],
  [['qemu-io', '-c', 'write -c -P 3 64k 16k']],
]

/** Which parts of the disk have a place in the image, and which of them read as zeroes. */
async function placed(folder: string): Promise<readonly unknown[]> {
  const { stdout } = await runTheirs(folder, ['map', '--output=json', 'a.qcow2'])
  const found: { start: number; end: number; state: string }[] = []
  for (const { start, length, present, depth, offset } of JSON.parse(stdout)) {
    const state = `depth ${depth}, ${present ? 'present' : 'absent'}, ${offset === undefined ? 'no place' : 'placed'}`
    const last = found.at(-1)
    if (last?.state === state && last.end === start) last.end += length
    else found.push({ start, end: start + length, state })
  }
  return found
}

function spaceOf(folder: string, image: string): number {
  return statSync(`${folder}/${image}`).blocks * 512
}

qemu.describe('preallocation', () => {
  it('of encrypted disks', async () => {
    const key = '--object secret,id=s,data=x -o key-secret=s,iter-time=10'
    // QEMU takes seconds for a key, whatever it is told.
    for (const mode of ['metadata', 'full', 'no-such']) {
      await pair.same(`create -q -f luks ${key},preallocation=${mode} a.luks 3M`)
      const [ours, theirs] = [pair.ours, pair.theirs].map((folder) => {
        const file = statSync(`${folder}/a.luks`, { throwIfNoEntry: false })
        return file && { size: file.size, whole: file.blocks * 512 >= file.size }
      })
      expect({ mode, ...ours }).toEqual({ mode, ...theirs })
    }
  })

  for (const mode of modes) {
    it(`${mode}: new images`, async () => {
      for (const size of ['0', '512', '3M', '10000384', '40M']) {
        for (const options of ['', ',cluster_size=4k', ',compat=0.10', ',extended_l2=on']) {
          await pair.same(`create -q -f qcow2 -o preallocation=${mode}${options} a.qcow2 ${size}`)
          await alike('a.qcow2', taken(mode + options, 0))
        }
      }
    })

    it(`${mode}: above a backing file`, async () => {
      await pair.prepare('qemu-img', 'create', '-q', '-f', 'qcow2', 'b.qcow2', '2M')
      await pair.prepare('qemu-io', '-c', 'write -P 5 0 2M', 'b.qcow2')
      const backed = '-b b.qcow2 -F qcow2'
      await pair.same(`create -q -f qcow2 ${backed} -o preallocation=${mode} a.qcow2 2M`)
      await pair.same(
        `create -q -f qcow2 ${backed} -o preallocation=${mode},extended_l2=on a.qcow2 2M`,
      )
      await alike('a.qcow2')
    })

    it(`${mode}: resized`, async () => {
      for (const options of ['', ',cluster_size=4k', ',compat=0.10', ',extended_l2=on']) {
        await pair.prepare(
          'qemu-img',
          'create',
          '-q',
          '-f',
          'qcow2',
          '-o',
          `lazy_refcounts=off${options}`,
          'a.qcow2',
          '1M',
        )
        await pair.prepare('qemu-io', '-c', 'write -P 3 0 100k', 'a.qcow2')
        for (const size of ['+64k', '3M', '+2000k', '40M']) {
          await pair.same(`resize --preallocation=${mode} a.qcow2 ${size}`)
          await alike('a.qcow2', taken(mode + options, 1024 * 1024))
        }
        await pair.same(`resize --preallocation=${mode} a.qcow2 40M`)
        await pair.same(`resize --preallocation=${mode} --shrink a.qcow2 20M`)
        await pair.same('resize --shrink a.qcow2 20M')
        await pair.same(`resize --preallocation=${mode} a.qcow2 +1000`)
        await alike('a.qcow2')
      }
    })

    it(`${mode}: resized from within a cluster`, async () => {
      await pair.prepare('qemu-img', 'create', '-q', '-f', 'qcow2', 'b.qcow2', '2M')
      await pair.prepare('qemu-io', '-c', 'write -P 5 0 2M', 'b.qcow2')
      const kinds = ['', 'compat=0.10', 'extended_l2=on', 'backing_file=b.qcow2,backing_fmt=qcow2']
      for (const options of [...kinds, `${kinds[3]},extended_l2=on`]) {
        for (const had of hadBefore) {
          // QEMU 7.2 loses it.
          if (options.includes('extended') && had[0]?.[2]?.includes('-c ')) continue
          const given = options === '' ? [] : ['-o', options]
          const create = ['create', '-q', '-f', 'qcow2', ...given, 'a.qcow2', '80k']
          await pair.prepare('qemu-img', ...create)
          for (const [program, ...words] of had) await pair.prepare(program, ...words, 'a.qcow2')
          await pair.same(`resize --preallocation=${mode} a.qcow2 300k`)
          const note = `${options}, ${had.join('; ')}`
          await alike('a.qcow2', undefined, note)
          // Where marks would do, QEMU copies and writes zeroes if there is a backing file.
          const copies = mode === 'off' || (mode !== 'metadata' && options.includes('extended'))
          if (copies && options.includes('backing')) continue
          expect(await placed(pair.ours), note).toEqual(await placed(pair.theirs))
        }
      }
    })

    it(`${mode}: resized with a snapshot, a bitmap, a backing file`, async () => {
      await pair.prepare('qemu-img', 'create', '-q', '-f', 'qcow2', 'b.qcow2', '2M')
      await pair.prepare('qemu-io', '-c', 'write -P 5 0 2M', 'b.qcow2')
      await pair.prepare(
        'qemu-img',
        'create',
        '-q',
        '-f',
        'qcow2',
        '-b',
        'b.qcow2',
        '-F',
        'qcow2',
        'a.qcow2',
        '512k',
      )
      await pair.prepare('qemu-io', '-c', 'write -P 3 0 100k', 'a.qcow2')
      await pair.prepare('qemu-img', 'snapshot', '-c', 'one', 'a.qcow2')
      await pair.prepare('qemu-img', 'bitmap', '--add', 'a.qcow2', 'bits')
      await pair.same(`resize --preallocation=${mode} a.qcow2 1M`)
      await pair.same(`resize --preallocation=${mode} a.qcow2 4M`)
      await alike('a.qcow2', taken(mode, 512 * 1024))
      await pair.same('resize a.qcow2 1M')
      await pair.same('resize --shrink a.qcow2 1M')
      await alike('a.qcow2')
    })

    it(`${mode}: raw`, async () => {
      for (const folder of [pair.ours, pair.theirs]) {
        await runTheirs(folder, ['create', '-q', '-f', 'raw', 'r.raw', '1M'])
      }
      for (const size of ['+1M', '+1000', '8M']) {
        await pair.same(`resize -f raw --preallocation=${mode} r.raw ${size}`)
        expect(statSync(`${pair.ours}/r.raw`).size).toBe(statSync(`${pair.theirs}/r.raw`).size)
        expect(spaceOf(pair.ours, 'r.raw')).toBe(spaceOf(pair.theirs, 'r.raw'))
      }
    })
  }

  it('refuses what is none', async () => {
    await pair.prepare('qemu-img', 'create', '-q', '-f', 'qcow2', 'a.qcow2', '1M')
    await pair.same('resize --preallocation=bad a.qcow2 2M')
    await pair.same('create -f qcow2 -o preallocation=bad c.qcow2 2M')
  })
})
