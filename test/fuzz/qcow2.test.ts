/**
 * Damaged qcow2 images: whatever is flipped, cut off or claimed, what comes of it is either a disk
 * or one clear error, in bounded time and memory, and no file is left open.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { beforeAll, describe, expect, test } from 'vitest'
import { openDisk } from '../../src/disk.ts'
import { drivers } from '../../src/drivers.ts'
import { Graph } from '../../src/graph/graph.ts'
import { peer } from '../peers.ts'
import {
  checkImage,
  type Fate,
  isClear,
  openDescriptors,
  readImage,
  writeImage,
} from '../support/damage.ts'
import { scratchFolder } from '../support/folder.ts'
import { runOurs } from '../support/img.ts'
import { Random, runSeed, seedNote } from '../support/random.ts'

const folder = scratchFolder('fuzz-qcow2')
const damaged = join(folder, 'damaged.qcow2')
const qemuImg = peer('qemu-img')
const size = 1024 * 1024

/** Images with small tables, so that most of their bytes mean something. */
const kinds: Readonly<Record<string, Record<string, unknown>>> = {
  'version 3': { size, cluster_size: 512 },
  'version 2, refcounts of 16 bits': { size, compat: '0.10', cluster_size: 1024 },
  'refcounts of one bit': { size, cluster_size: 512, refcount_bits: 1 },
  zstd: { size, cluster_size: 4096, compression_type: 'zstd' },
}

const images = new Map<string, Buffer>()

async function makeImage(path: string, options: Record<string, unknown>): Promise<void> {
  writeFileSync(path, '')
  const { creator } = drivers.find(({ name }) => name === 'qcow2')!
  const { signal } = new AbortController()
  {
    await using graph = new Graph({ drivers })
    const file = await graph.open({ driver: 'file', filename: path })
    await using edge = graph.attach(file, {
      description: 'a test',
      uses: ['consistentRead', 'write', 'resize'],
    })
    await creator!.create(creator!.parse(options), { file: edge, signal })
  }
  await using disk = await openDisk(path, { format: 'qcow2' })
  await disk.write(3000, Buffer.alloc(20_000, 0x11))
  await disk.write(500_000, Buffer.alloc(5000, 0x22))
  await disk.writeZeroes(10_000, 4096)
  await using graphEdge = disk.graph.attach(disk.node, { description: 'a test', uses: ['write'] })
  const { compressed } = graphEdge
  if (!compressed) return
  const io = { signal, fua: false, unchanged: false }
  await compressed.write(700 * 1024, Buffer.alloc(compressed.unit, 0x33), io)
}

beforeAll(async () => {
  for (const [kind, options] of Object.entries(kinds)) {
    const path = join(folder, 'whole.qcow2')
    await makeImage(path, options)
    images.set(kind, readFileSync(path))
  }
})

/** What the image may become; what it must not is a failure of another kind, or of no kind. */
function expectDecent(fate: Fate, what: string): void {
  if ('error' in fate && !isClear(fate.error)) {
    throw new Error(`${what}: ${fate.error}`, { cause: fate.error })
  }
}

async function tryEverything(bytes: Uint8Array, what: string): Promise<Fate> {
  writeFileSync(damaged, bytes)
  const before = openDescriptors()
  const fate = await readImage(damaged)
  expectDecent(fate, `${what}, read`)
  expectDecent(await checkImage(damaged), `${what}, checked`)
  expectDecent(await writeImage(damaged), `${what}, written`)
  expect(openDescriptors(), `files left open: ${what}`).toBe(before)
  return fate
}

describe.each(Object.keys(kinds))('%s', (kind) => {
  test('is whole to begin with', async () => {
    const fate = await tryEverything(images.get(kind)!, 'nothing')
    if ('error' in fate) throw fate.error
    expect(fate.content.subarray(3000, 3004)).toEqual(Buffer.alloc(4, 0x11))
  })

  test('with each bit of the header flipped', async () => {
    const whole = images.get(kind)!
    for (let bit = 0; bit < 112 * 8; bit += 7) {
      const bytes = Buffer.from(whole)
      bytes[Math.floor(bit / 8)] ^= 2 ** (bit % 8)
      await tryEverything(bytes, `bit ${bit} of the header`)
    }
  })

  test(`with bits of its tables flipped (${seedNote})`, async () => {
    const whole = images.get(kind)!
    for (let round = 0; round < 25; round++) {
      const random = new Random(runSeed + round)
      const bytes = Buffer.from(whole)
      for (let flips = random.below(3); flips >= 0; flips--) {
        const at = random.below(Math.min(bytes.length, 24 * 1024))
        bytes[at] = random.chance(0.5) ? bytes[at] ^ (2 ** random.below(8)) : random.below(256)
      }
      await tryEverything(bytes, `seed ${runSeed}, round ${round}`)
    }
  })

  test(`with words of its tables replaced by offsets (${seedNote})`, async () => {
    const whole = images.get(kind)!
    for (let round = 0; round < 25; round++) {
      const random = new Random(runSeed * 7 + round)
      const bytes = Buffer.from(whole)
      const at = random.below(24 * 128) * 8
      const flags = random.pick([0n, 1n << 63n, 1n << 62n, 3n << 62n, 1n])
      const place = BigInt(random.below(2 ** 32)) << BigInt(random.pick([0, 9, 12, 16, 24]))
      bytes.writeBigUInt64BE((flags | place) & 0xffff_ffff_ffff_ffffn, at)
      await tryEverything(bytes, `seed ${runSeed}, round ${round}, word ${at}`)
    }
  })

  test('cut off anywhere', async () => {
    const whole = images.get(kind)!
    const lengths = [0, 1, 3, 4, 7, 8, 71, 72, 73, 103, 104, 105, 111, 112, 200, 511, 512, 513]
    for (let length = 1024; length < whole.length; length += 4531) lengths.push(length)
    for (const length of lengths) {
      const fate = await tryEverything(whole.subarray(0, length), `cut off at ${length}`)
      if (length < 72) expect(fate, `cut off at ${length}`).toHaveProperty('error')
    }
  })
})

test(`varve img ends with a status and one line, whatever it is given (${seedNote})`, async () => {
  const kindNames = [...images.keys()]
  const commands = [['info'], ['check'], ['map'], ['convert', '-O', 'raw'], ['compare']]
  for (let round = 0; round < 40; round++) {
    const random = new Random(runSeed * 17 + round)
    const bytes = Buffer.from(images.get(random.pick(kindNames))!)
    for (let flips = random.below(4); flips >= 0; flips--) {
      const at = random.chance(0.3) ? random.below(112) : random.below(16 * 1024)
      bytes[at] = random.below(256)
    }
    writeFileSync(damaged, random.chance(0.2) ? bytes.subarray(0, random.below(30_000)) : bytes)
    const [command, ...options] = random.pick(commands)
    const other = command === 'convert' ? ['converted'] : command === 'compare' ? [damaged] : []
    const before = openDescriptors()
    const { status, stderr } = await runOurs(folder, [command, ...options, damaged, ...other])
    const what = `seed ${runSeed}, round ${round}, ${command}: ${stderr}`
    expect([0, 1, 2, 3, 4, 63], what).toContain(status)
    // A check lists one line for each fault that it finds.
    if (status !== 0 && command !== 'check') expect(stderr.trim().split('\n'), what).toHaveLength(1)
    expect(openDescriptors(), what).toBe(before)
  }
})

test('memory stays bounded through all of that', () => {
  expect(process.resourceUsage().maxRSS).toBeLessThan(600 * 1024)
})

qemuImg.describe('beside qemu-img', () => {
  test(`what varve img check -r all calls repaired is clean for both (${seedNote})`, async () => {
    let repaired = 0
    for (let round = 0; round < 30; round++) {
      const random = new Random(runSeed * 19 + round)
      const bytes = Buffer.from(images.get(random.pick([...images.keys()]))!)
      for (let flips = random.below(3); flips >= 0; flips--) {
        bytes[512 + random.below(12 * 1024)] ^= 2 ** random.below(8)
      }
      writeFileSync(damaged, bytes)
      const repair = await runOurs(folder, ['check', '-r', 'all', damaged])
      const what = `seed ${runSeed}, round ${round}: ${repair.stdout}${repair.stderr}`
      if (repair.status !== 0) continue
      repaired++
      const ours = await runOurs(folder, ['check', damaged])
      expect(ours.status, `${what}${ours.stdout}${ours.stderr}`).toBe(0)
      const theirs = await qemuImg.try('check', damaged)
      expect(theirs.status, `${what}${theirs.stdout}${theirs.stderr}`).toBe(0)
      expectDecent(await writeImage(damaged), what)
      expect((await qemuImg.try('check', damaged)).status, `${what}, written`).toBe(0)
    }
    expect(repaired).toBeGreaterThan(5)
  })

  test(`what both can read reads the same (${seedNote})`, async () => {
    const whole = images.get('version 3')!
    const path = join(folder, 'beside.qcow2')
    const theirs = join(folder, 'theirs.raw')
    let bothRead = 0
    for (let round = 0; round < 30; round++) {
      const random = new Random(runSeed * 13 + round)
      const bytes = Buffer.from(whole)
      // Behind the header: a flip there changes what the image is rather than what it holds.
      const at = 512 + random.below(12 * 1024)
      bytes[at] ^= 2 ** random.below(8)
      writeFileSync(path, bytes)
      const ours = await readImage(path)
      const convert = await qemuImg.try('convert', '-f', 'qcow2', '-O', 'raw', path, theirs)
      if ('error' in ours || convert.status !== 0) continue
      bothRead++
      const same = readFileSync(theirs).equals(ours.content)
      expect(same, `seed ${runSeed}, round ${round}, byte ${at}`).toBe(true)
    }
    expect(bothRead).toBeGreaterThan(5)
  })
})
