/** Random disks through random conversions, judged by the real qemu-img; and images in use. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { Pair, runOurs, runTheirs } from '../support/img.ts'
import { Random, runSeed, seedNote } from '../support/random.ts'

const qemu = peer('qemu-img', 'qemu-io')

let pair: Pair
beforeEach(() => {
  pair = new Pair()
})
afterEach(() => pair[Symbol.dispose]())

const rounds = 5
const maxSize = 8 * 1024 * 1024

/** A raw file with holes, zeroes that are stored, and data. */
function makeRaw(path: string, random: Random): void {
  const size = 512 * (1 + random.below(maxSize / 512))
  const fd = openSync(path, 'w')
  try {
    ftruncateSync(fd, size)
    for (let count = random.below(20); count > 0; count--) {
      const [offset, length] = random.range(size, 512, 1024 * 1024)
      writeSync(
        fd,
        random.chance(0.3) ? new Uint8Array(length) : random.bytes(length),
        0,
        length,
        offset,
      )
    }
  } finally {
    closeSync(fd)
  }
}

function pick<T>(random: Random, choices: readonly T[]): T {
  return choices[random.below(choices.length)]
}

function randomOptions(random: Random): string[] {
  const format = pick(random, ['raw', 'qcow2', 'qcow2'])
  const options = ['-O', format, '-m', String(1 + random.below(16))]
  if (random.chance(0.3)) options.push('-W')
  if (random.chance(0.4)) options.push('-S', pick(random, ['0', '512', '4k', '64k', '1M']))
  if (format === 'raw') return options
  if (random.chance(0.4)) options.push('-c')
  const cluster = pick(random, ['512', '4k', '64k', '2M'])
  const compression = pick(random, ['zlib', 'zstd'])
  options.push('-o', `cluster_size=${cluster},compression_type=${compression}`)
  return options
}

qemu.describe('random conversions', () => {
  it(`keep every byte (${seedNote})`, async () => {
    const random = new Random(runSeed)
    for (let round = 0; round < rounds; round++) {
      makeRaw(`${pair.ours}/disk0`, random)
      const steps: string[][] = []
      for (let step = 0; step < 3; step++) {
        const from = step === 0 ? 'raw' : steps[step - 1][1]
        const options = randomOptions(random)
        steps.push(options)
        const words = ['convert', '-f', from, ...options, `disk${step}`, `disk${step + 1}`]
        const by = random.chance(0.25) ? runTheirs : runOurs
        expect(await by(pair.ours, words), words.join(' ')).toMatchObject({ status: 0, stderr: '' })
        await judge(options[1], `disk${step + 1}`, words.join(' '))
      }
    }
  })
})

/** Equal to the disk at the start, for both programs, and sound. */
async function judge(format: string, image: string, note: string): Promise<void> {
  const words = ['compare', '-f', 'raw', '-F', format, 'disk0', image]
  for (const compare of [runOurs, runTheirs]) {
    const outcome = await compare(pair.ours, words)
    expect(outcome.stdout + outcome.stderr, note).toBe('Images are identical.\n')
  }
  if (format === 'qcow2') await qemu.run('check', '-q', `${pair.ours}/${image}`)
}

qemu.describe('an image that another process writes to', () => {
  it('is refused in the words of qemu-img, unless -U is given', async () => {
    const folder = pair.ours
    await runTheirs(folder, ['create', '-q', '-f', 'qcow2', 'b.qcow2', '1M'])
    const writer = spawn('qemu-io', ['b.qcow2'], {
      cwd: folder,
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    try {
      writer.stdin.write('write 0 64k\n')
      await once(writer.stdout, 'data')
      for (const text of [
        'info b.qcow2',
        'info -U b.qcow2',
        'check b.qcow2',
        'map b.qcow2',
        'compare b.qcow2 b.qcow2',
        'convert b.qcow2 x',
        'create -f raw b.qcow2 1M',
        'create -f qcow2 b.qcow2 1M',
        'resize b.qcow2 2M',
      ]) {
        const args = text.split(' ')
        expect(await runOurs(folder, args), text).toEqual(await runTheirs(folder, args))
      }
    } finally {
      writer.stdin.end()
      await once(writer, 'exit')
    }
  })
})

qemu.describe('a chain that leads back to where it began', () => {
  it('is refused', async () => {
    for (const words of [
      'create -q -f qcow2 one 1M',
      'create -q -f qcow2 -b one -F qcow2 two',
      'rebase -u -b two -F qcow2 one',
    ]) {
      await runTheirs(pair.ours, words.split(' '))
    }
    const loop = "Backing file 'one' creates an infinite loop.\n"
    const chain = ['info', '--backing-chain', 'one']
    expect(await runOurs(pair.ours, chain)).toEqual(await runTheirs(pair.ours, chain))
    // qemu-img goes round for ever; the words are those of a chain of that length whose end is missing.
    const backing = 'Could not open backing file: Could not open backing file: '
    expect(await runOurs(pair.ours, ['convert', 'one', 'x'])).toMatchObject({
      status: 1,
      stderr: `qemu-img: Could not open 'one': ${backing}${loop}`,
    })
  })
})
