/**
 * qcow2 against QEMU's tools: what varve writes is clean to `qemu-img check` and shows the same
 * disk, what they write reads equal; over random options and operations from a printed seed.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'vitest'
import { type BlockLayer, plainIo, plainWriteIo, plainZeroIo } from '../../src/block/layer.ts'
import { alignDown } from '../../src/bytes/range.ts'
import { openDisk } from '../../src/disk.ts'
import { MemoryLayer } from '../../src/protocol/memory.ts'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { newImage, openImage } from '../support/qcow2.ts'
import { Random, runSeed, seedNote } from '../support/random.ts'

const qemuImg = peer('qemu-img', 'qemu-io')
const qemuIo = peer('qemu-io', 'qemu-img')
const folder = scratchFolder('qcow2')
const sectorSize = 512

const kinds: readonly Readonly<Record<string, unknown>>[] = [
  {},
  { compat: '0.10' },
  { cluster_size: 512 },
  { cluster_size: 512, compat: '0.10' },
  { cluster_size: 1024, refcount_bits: 1 },
  { cluster_size: 2048, refcount_bits: 2 },
  { cluster_size: 4096, refcount_bits: 4, lazy_refcounts: 'on' },
  { cluster_size: 8192, refcount_bits: 8, compression_type: 'zstd' },
  { cluster_size: 16384, refcount_bits: 32 },
  { cluster_size: 32768, refcount_bits: 64, compression_type: 'zstd' },
  { cluster_size: 131072, preallocation: 'metadata' },
  { cluster_size: 65536, preallocation: 'falloc' },
  { cluster_size: 262144, preallocation: 'full' },
  { cluster_size: 1048576 },
  { cluster_size: 2097152, refcount_bits: 16 },
  { cluster_size: 16384, extended_l2: 'on' },
  { cluster_size: 32768, extended_l2: 'on', refcount_bits: 1 },
  { cluster_size: 65536, extended_l2: 'on', compression_type: 'zstd' },
  { cluster_size: 131072, extended_l2: 'on', preallocation: 'metadata' },
  { cluster_size: 262144, extended_l2: 'on', lazy_refcounts: 'on' },
  { cluster_size: 524288, extended_l2: 'on', refcount_bits: 64 },
  { cluster_size: 1048576, extended_l2: 'on', preallocation: 'falloc' },
  { cluster_size: 2097152, extended_l2: 'on' },
]

qemuImg.describe('an image that varve writes', () => {
  for (const [index, kind] of kinds.entries()) {
    const backed = index % 2 === 1 && kind.preallocation === undefined
    const title = `${JSON.stringify(kind)}${backed ? ' over a backing file' : ''}`
    qemuImg.it(`is clean and shows the same disk to qemu-img: ${title} (${seedNote})`, async () => {
      const random = new Random(runSeed + index)
      const name = `ours-${index}`
      const base = backed ? writeBase(random, name) : undefined
      const options = base ? { ...kind, backing_file: base.name, backing_fmt: 'raw' } : kind
      const size = 512 * (2000 + random.below(6000))
      const file = await newImage({ size, ...options })
      await randomWork(file, random, base?.content)
      const image = store(name, await contentOf(file))
      const { layer } = await openImage(
        file,
        { readOnly: true },
        base && MemoryLayer.of(base.content),
      )
      const expected = store(`${name}.raw`, await contentOf(layer))
      await expectClean(image)
      await qemuImg.run('compare', '-f', 'qcow2', '-F', 'raw', image, expected)
    })
  }

  qemuImg.it('may be a chain, whose names are relative to each image', async () => {
    const random = new Random()
    const base = writeBase(random, 'chain')
    const file = await newImage({ size: 1 << 20, backing_file: base.name, backing_fmt: 'raw' })
    store('chain-middle', await contentOf(file))
    const overlay = await newImage({
      size: 3 << 19,
      backing_file: 'chain-middle',
      backing_fmt: 'qcow2',
      cluster_size: 4096,
    })
    const top = store('chain-top', await contentOf(overlay))
    {
      await using disk = await openDisk(top, { format: 'qcow2', backing: 'same-folder' })
      await disk.write(5000, random.bytes(30_000))
      const all = new Uint8Array(disk.size)
      await disk.read(0, all)
      store('chain.raw', all)
    }
    await expectClean(top)
    await qemuImg.run('compare', top, join(folder, 'chain.raw'))
  })

  qemuImg.it('of many L2 tables and refcount blocks, written by its file name', async () => {
    const random = new Random()
    const file = await newImage({ size: '40M', cluster_size: 512, refcount_bits: 64 })
    const image = store('many', await contentOf(file))
    {
      await using disk = await openDisk(image, { format: 'qcow2' })
      for (let at = 0; at < disk.size; at += 1 << 20) {
        await disk.write(at + random.below(1 << 19), random.bytes(200_000))
      }
      await disk.truncate(60 << 20)
      await disk.write(50 << 20, random.bytes(70_000))
      await disk.truncate(30 << 20)
      const all = new Uint8Array(disk.size)
      await disk.read(0, all)
      store('many.raw', all)
    }
    await expectClean(image)
    await qemuImg.run('compare', image, join(folder, 'many.raw'))
  })
})

qemuIo.describe('an image that QEMU writes', () => {
  for (const [index, kind] of kinds.entries()) {
    const backed = index % 2 === 0 && kind.preallocation === undefined
    const title = `${JSON.stringify(kind)}${backed ? ' over a backing file' : ''}`
    qemuIo.it(`reads equal and can be written on: ${title} (${seedNote})`, async () => {
      const random = new Random(runSeed + index)
      const name = `theirs-${index}`
      const base = backed ? writeBase(random, name) : undefined
      const image = join(folder, name)
      const size = alignDown(1_000_000 + random.below(3_000_000), sectorSize)
      await createByQemu(image, kind, size, base?.name)
      // What is allocated already cannot be compressed.
      const commands = kind.preallocation
        ? plainCommands(random, size)
        : qemuCommands(random, size, kind.cluster_size as number | undefined)
      await qemuIo.run('-d', 'unmap', ...commands, image)
      await qemuImg.run('convert', '-O', 'raw', image, `${image}.raw`)

      await expectSameDisk(image, `${image}.raw`)
      await writeOn(image, random)
      await expectClean(image)
      await qemuImg.run('compare', '-f', 'qcow2', '-F', 'raw', image, `${image}.raw`)
    })
  }

  qemuImg.it(`with snapshots keeps them when varve writes (${seedNote})`, async () => {
    const random = new Random()
    const old = { compat: '0.10', cluster_size: 4096 }
    const extended = { cluster_size: 16384, extended_l2: 'on' }
    for (const [index, kind] of [old, { cluster_size: 4096 }, extended].entries()) {
      const image = join(folder, `snapshots-${index}`)
      await createByQemu(image, kind, 1 << 21)
      await qemuIo.run(...qemuCommands(random, 1 << 21, kind.cluster_size), image)
      await qemuImg.run('convert', '-O', 'raw', image, `${image}.one`)
      await qemuImg.run('snapshot', '-c', 'one', image)
      await qemuIo.run(...plainCommands(random, 1 << 21), image)
      await qemuImg.run('snapshot', '-c', 'two', image)
      await qemuImg.run('convert', '-O', 'raw', image, `${image}.two`)
      store(`snapshots-${index}.raw`, readFileSync(`${image}.two`))
      for (let round = 0; round < 3; round++) await writeOn(image, random)
      await expectClean(image)
      await qemuImg.run('compare', '-f', 'qcow2', '-F', 'raw', image, `${image}.raw`)
      for (const snapshot of ['one', 'two']) {
        await qemuImg.run('convert', '-l', snapshot, '-O', 'raw', image, `${image}.found`)
        await qemuImg.run(
          'compare',
          '-f',
          'raw',
          '-F',
          'raw',
          `${image}.${snapshot}`,
          `${image}.found`,
        )
      }
    }
  })
})

/** Random requests of all kinds, then the image is closed. */
async function randomWork(file: BlockLayer, random: Random, backing?: Uint8Array): Promise<void> {
  const { layer } = await openImage(file, {}, backing && MemoryLayer.of(backing))
  for (let step = 0; step < 120; step++) await randomRequest(layer, random)
  await layer[Symbol.asyncDispose]()
}

async function randomRequest(layer: BlockLayer, random: Random): Promise<void> {
  const [offset, length] = random.range(layer.size, sectorSize, 300_000)
  const choice = random.next()
  if (choice < 0.55) return await layer.write(offset, random.bytes(length), plainWriteIo)
  if (choice < 0.7) {
    return await layer.writeZeroes(offset, length, { ...plainZeroIo, mayUnmap: random.chance(0.5) })
  }
  if (choice < 0.8) return await layer.discard(offset, length, plainIo)
  if (choice < 0.85) return await layer.flush(plainIo)
  if (choice < 0.88) {
    return await layer.truncate(
      Math.max(sectorSize, layer.size + 512 * (random.below(900) - 450)),
      plainIo,
    )
  }
  if (!layer.compressed) return
  const { unit } = layer.compressed
  const at = alignDown(offset, unit)
  await layer.compressed.write(at, random.bytes(Math.min(unit, layer.size - at)), plainWriteIo)
}

/**
 * Commands for qemu-io. Clusters are compressed first, and each once: qemu-io 7.2 refuses to do so
 * where something is allocated, and leaves a wrong refcount behind.
 */
function qemuCommands(random: Random, size: number, clusterSize = 65536): string[] {
  const commands: string[] = []
  const pattern = () => `-P ${1 + random.below(255)}`
  for (let at = 0; at + clusterSize <= size && commands.length < 40; at += clusterSize) {
    if (random.chance(0.3)) commands.push('-c', `write -c ${pattern()} ${at} ${clusterSize}`)
  }
  return [...commands, ...plainCommands(random, size)]
}

function plainCommands(random: Random, size: number): string[] {
  const commands: string[] = []
  for (let step = 0; step < 40; step++) {
    const [offset, length] = random.range(size, sectorSize, 200_000)
    const write = `write -P ${1 + random.below(255)}`
    const verb = random.pick([write, write, 'write -z', 'write -z -u', 'discard'])
    commands.push('-c', `${verb} ${offset} ${length}`)
  }
  return commands
}

/** Writes random data to an image and to the raw file beside it. */
async function writeOn(image: string, random: Random): Promise<void> {
  const raw = readFileSync(`${image}.raw`)
  await using disk = await openDisk(image, { format: 'qcow2', backing: 'same-folder' })
  for (let step = 0; step < 20; step++) {
    const [offset, length] = random.range(disk.size, 1, 100_000)
    const bytes = random.bytes(length)
    if (random.chance(0.2)) {
      await disk.writeZeroes(offset, length, { mayUnmap: random.chance(0.5) })
      raw.fill(0, offset, offset + length)
    } else {
      await disk.write(offset, bytes)
      raw.set(bytes, offset)
    }
  }
  writeFileSync(`${image}.raw`, raw)
}

async function expectSameDisk(image: string, raw: string): Promise<void> {
  await using disk = await openDisk(image, {
    format: 'qcow2',
    readOnly: true,
    backing: 'same-folder',
  })
  const found = new Uint8Array(disk.size)
  await disk.read(0, found)
  expect(Buffer.compare(found, readFileSync(raw)), image).toBe(0)
}

async function expectClean(image: string): Promise<void> {
  const { status, stdout, stderr } = await qemuImg.try('check', '-f', 'qcow2', image)
  expect([status, stderr], stdout).toEqual([0, ''])
}

async function createByQemu(
  image: string,
  kind: Readonly<Record<string, unknown>>,
  size: number,
  base?: string,
): Promise<void> {
  const options = Object.entries(kind).map(([name, value]) => `${name}=${value}`)
  const backing = base === undefined ? [] : ['-b', base, '-F', 'raw']
  const named = options.length === 0 ? [] : ['-o', options.join(',')]
  await qemuImg.run('create', '-q', '-f', 'qcow2', ...named, ...backing, image, String(size))
}

function writeBase(random: Random, name: string): { name: string; content: Uint8Array } {
  const content = random.bytes(512 * (1500 + random.below(3000)))
  store(`${name}.base`, content)
  return { name: `${name}.base`, content }
}

async function contentOf(layer: BlockLayer): Promise<Uint8Array> {
  const bytes = new Uint8Array(layer.size)
  await layer.read(0, bytes, plainIo)
  return bytes
}

function store(name: string, bytes: Uint8Array): string {
  writeFileSync(join(folder, name), bytes)
  return join(folder, name)
}
