/** qcow2 with data files and subclusters against QEMU's tools: made, written and read by either. */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, expect } from 'vitest'
import { openDisk } from '../../src/disk.ts'
import { peer } from '../peers.ts'
import { Pair, runOurs, runTheirs } from '../support/img.ts'
import { Random, runSeed, seedNote } from '../support/random.ts'

const qemu = peer('qemu-img', 'qemu-io')

let pair: Pair
beforeEach(() => {
  pair = new Pair()
})
afterEach(() => pair[Symbol.dispose]())

const kinds = [
  'data_file=d',
  'data_file=d,cluster_size=512',
  'data_file=d,data_file_raw=on,cluster_size=4k',
  'data_file=d,extended_l2=on,cluster_size=16k',
  'data_file=d,data_file_raw=on,extended_l2=on,cluster_size=32k',
  'data_file=d,preallocation=metadata',
  'data_file=d,preallocation=full,cluster_size=2M',
  'extended_l2=on,cluster_size=16k',
  'extended_l2=on,preallocation=metadata',
]

qemu.describe('an image', () => {
  for (const [index, options] of kinds.entries()) {
    qemu.it(
      `is the same disk to both, whoever makes and writes it: ${options} (${seedNote})`,
      async () => {
        const random = new Random(runSeed + index)
        const size = 512 * (1000 + random.below(5000))
        const [make, other] = index % 2 === 0 ? [runOurs, runTheirs] : [runTheirs, runOurs]
        const create = ['create', '-q', '-f', 'qcow2', '-o', options, 'i', String(size)]
        expect(await make(pair.ours, create)).toMatchObject({ status: 0, stderr: '' })
        const content = new Uint8Array(size)
        for (let round = 0; round < 3; round++) {
          await writeByUs(join(pair.ours, 'i'), content, random)
          if (options.includes('raw=on')) expectRaw(content, 'written by us')
          await writeByQemu(content, random)
          await sameOutput(['map', '--output=json', 'i'])
          await sameOutput(['info', '--output=json', 'i'], /"(actual-size|filename)".*/g)
          for (const check of [make, other]) {
            expect(await check(pair.ours, ['check', '-q', 'i'])).toMatchObject({ status: 0 })
          }
          for (const convert of [make, other]) {
            await convert(pair.ours, ['convert', '-O', 'raw', 'i', 'o'])
            expect(Buffer.compare(readFileSync(join(pair.ours, 'o')), content)).toBe(0)
          }
          if (options.includes('raw=on')) expectRaw(content, 'written by QEMU')
        }
      },
    )
  }
})

qemu.describe('an image with a data file', () => {
  qemu.it('changes its size with the data file', async () => {
    for (const options of ['data_file=d', 'data_file=d,data_file_raw=on']) {
      for (const [folder, run] of [
        [pair.ours, runOurs],
        [pair.theirs, runTheirs],
      ] as const) {
        await run(folder, ['create', '-q', '-f', 'qcow2', '-o', options, 'i', '1M'])
        await run(folder, ['resize', '-q', 'i', '3M'])
        await run(folder, ['resize', '-q', '--shrink', 'i', '2M'])
        expect(readFileSync(join(folder, 'd')).length).toBe(2 << 20)
      }
      await sameOutput(['map', '--output=json', 'i'])
      expect(await runTheirs(pair.ours, ['check', '-q', 'i'])).toMatchObject({ status: 0 })
    }
  })

  qemu.it('is refused in the same words', async () => {
    for (const folder of [pair.ours, pair.theirs]) {
      await runTheirs(folder, 'create -q -f qcow2 -o data_file=d i 1M'.split(' '))
      await runTheirs(folder, 'create -q -f qcow2 plain 1M'.split(' '))
      writeFileSync(join(folder, 'r'), new Uint8Array(1 << 20).fill(7))
    }
    for (const words of [
      'convert -c -f raw -O qcow2 -n r i',
      'map --image-opts driver=qcow2,file.filename=plain,data-file.driver=file,data-file.filename=d',
      'create -f qcow2 -o data_file=d,compat=0.10 x 1M',
      'create -f qcow2 -o data_file_raw=on x 1M',
      'create -f qcow2 -o data_file=d,data_file_raw=on,backing_file=plain,backing_fmt=qcow2 x 1M',
      'create -f qcow2 -o data_file=nowhere/d x 1M',
      'create -f qcow2 -o data_file=e,data_file_raw=on x 1M',
    ]) {
      const ours = await runOurs(pair.ours, words.split(' '))
      expect(ours, words).toEqual(await runTheirs(pair.theirs, words.split(' ')))
    }
  })
})

/** QEMU makes the data file longer than the disk where that ends within a cluster. */
function expectRaw(content: Uint8Array, note: string): void {
  const data = readFileSync(join(pair.ours, 'd')).subarray(0, content.length)
  expect(Buffer.compare(data, content), note).toBe(0)
}

async function sameOutput(words: readonly string[], without?: RegExp): Promise<void> {
  const ours = await runOurs(pair.ours, words)
  const theirs = await runTheirs(pair.ours, words)
  const shown = (text: string) => (without ? text.replaceAll(without, '') : text)
  expect({ ...ours, stdout: shown(ours.stdout) }).toEqual({
    ...theirs,
    stdout: shown(theirs.stdout),
  })
}

async function writeByUs(image: string, content: Uint8Array, random: Random): Promise<void> {
  await using disk = await openDisk(image, { format: 'qcow2', backing: 'same-folder' })
  for (let step = 0; step < 15; step++) {
    const [offset, length] = random.range(disk.size, 512, 100_000)
    const bytes = random.chance(0.3) ? new Uint8Array(length) : random.bytes(length)
    if (bytes.every((byte) => byte === 0)) {
      await disk.writeZeroes(offset, length, { mayUnmap: random.chance(0.5) })
    } else {
      await disk.write(offset, bytes)
    }
    content.set(bytes, offset)
  }
}

async function writeByQemu(content: Uint8Array, random: Random): Promise<void> {
  const commands: string[] = []
  for (let step = 0; step < 15; step++) {
    const [offset, length] = random.range(content.length, 512, 100_000)
    const pattern = random.below(256)
    const verb = random.pick([`write -P ${pattern}`, 'write -z', 'write -z -u'])
    commands.push('-c', `${verb} ${offset} ${length}`)
    content.fill(verb.includes('-z') ? 0 : pattern, offset, offset + length)
  }
  const outcome = await runTheirs(pair.ours, ['-d', 'unmap', ...commands, 'i'], 'qemu-io')
  expect(outcome).toMatchObject({ status: 0, stderr: '' })
}
