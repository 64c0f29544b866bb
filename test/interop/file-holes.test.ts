/** Holes in files: what QEMU and the file system say of those that varve keeps, makes and fills. */
import { statSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect } from 'vitest'
import { type BlockLayer, plainIo, plainWriteIo, plainZeroIo } from '../../src/block/layer.ts'
import { MiB } from '../../src/bytes/range.ts'
import { file, openFileLayer } from '../../src/protocol/file/driver.ts'
import type { FileLayer } from '../../src/protocol/file/file-layer.ts'
import { openKoffiSys } from '../../src/sys/koffi-sys.ts'
import { peer } from '../peers.ts'
import { openContext } from '../support/context.ts'
import { scratchFolder } from '../support/folder.ts'
import { Random, seedNote } from '../support/random.ts'

const folder = scratchFolder('holes')
const qemuImg = peer('qemu-img')
const qemuIo = peer('qemu-io')
const koffi = openKoffiSys()
const size = 64 * MiB

interface Run {
  readonly start: number
  readonly length: number
  readonly data: boolean
}

async function runsOfQemu(path: string): Promise<Run[]> {
  const runs = JSON.parse(await qemuImg.run('map', '-f', 'raw', '--output=json', path)) as Run[]
  return joined(runs.map(({ start, length, data }) => ({ start, length, data })))
}

async function runsOf(layer: BlockLayer): Promise<Run[]> {
  const runs: Run[] = []
  for (let start = 0; start < layer.size; ) {
    const { length, kind } = await layer.extentAt(start, layer.size - start, plainIo)
    runs.push({ start, length, data: kind === 'data' })
    start += length
  }
  return joined(runs)
}

function joined(runs: readonly Run[]): Run[] {
  const result: Run[] = []
  for (const run of runs) {
    const last = result.at(-1)
    if (last?.data !== run.data) result.push(run)
    else result[result.length - 1] = { ...last, length: last.length + run.length }
  }
  return result
}

function open(path: string): Promise<FileLayer> {
  return openFileLayer('file', file.parse({ filename: path }), openContext(), koffi!)
}

async function create(path: string): Promise<FileLayer> {
  await file.creator!.create(file.creator!.parse({ filename: path, size }), openContext())
  return open(path)
}

const allocated = (path: string) => statSync(path).blocks * 512

describe.skipIf(!koffi)('holes of files', () => {
  qemuImg.it(`are where qemu-img map sees them (${seedNote})`, async () => {
    const path = join(folder, 'ours.raw')
    await using layer = await create(path)
    const random = new Random()
    for (let step = 0; step < 40; step++) {
      const [offset, length] = random.range(size, 4096, 4 * MiB)
      const mayUnmap = random.chance(0.7)
      const choice = random.pick(['write', 'write', 'discard', 'zero'])
      if (choice === 'write') await layer.write(offset, random.bytes(length), plainWriteIo)
      else if (choice === 'discard') await layer.discard(offset, length, plainIo)
      else await layer.writeZeroes(offset, length, { ...plainZeroIo, mayUnmap })
    }
    await layer.flush(plainIo)
    expect(await runsOf(layer)).toEqual(await runsOfQemu(path))
  })

  qemuIo.it('made by qemu-io are found', async () => {
    const path = join(folder, 'theirs.raw')
    await (await create(path))[Symbol.asyncDispose]()
    const commands = ['write 1M 3M', 'discard 2M 1M', 'write 60M 4M', 'write -zu 61M 64k']
    const args = commands.flatMap((command) => ['-c', command])
    await qemuIo.run('-f', 'raw', '-d', 'unmap', ...args, path)
    await using layer = await open(path)
    const runs = await runsOf(layer)
    expect(runs.filter(({ data }) => data).map(({ start }) => start)).toEqual(
      expect.arrayContaining([MiB, 3 * MiB, 60 * MiB, 61 * MiB + 65536]),
    )
    expect(runs).toEqual(await runsOfQemu(path))
  })

  qemuImg.it('take no space, and are filled where the space is to stay', async () => {
    const path = join(folder, 'space.raw')
    await using layer = await create(path)
    await layer.write(0, new Uint8Array(16 * MiB).fill(1), plainWriteIo)
    await layer.flush(plainIo)
    expect(allocated(path)).toBeGreaterThanOrEqual(16 * MiB)
    await layer.discard(0, 8 * MiB, plainIo)
    await layer.writeZeroes(8 * MiB, 4 * MiB, { ...plainZeroIo, mayUnmap: true })
    expect(allocated(path)).toBeLessThan(5 * MiB)
    await layer.writeZeroes(0, 8 * MiB, plainZeroIo)
    expect(allocated(path)).toBeGreaterThanOrEqual(12 * MiB)
    await using zeroes = await create(join(folder, 'zeroes.raw'))
    await zeroes.write(12 * MiB, new Uint8Array(4 * MiB).fill(1), plainWriteIo)
    await qemuImg.run('compare', '-f', 'raw', '-F', 'raw', path, join(folder, 'zeroes.raw'))
  })
})
