import { describe, expect, it } from 'vitest'
import { newImage, openImage } from '../../../test/support/qcow2.ts'
import {
  type BlockLayer,
  type Extent,
  plainIo,
  plainWriteIo,
  plainZeroIo,
} from '../../block/layer.ts'
import { MemoryLayer } from '../../protocol/memory.ts'
import { UnstableMemory } from '../../protocol/unstable-memory/unstable-memory.ts'
import { incompatible } from './header.ts'

const MiB = 1024 * 1024

function bytes(length: number, value = 1): Uint8Array {
  return new Uint8Array(length).fill(value)
}

async function runs(layer: BlockLayer): Promise<Extent[]> {
  const found: Extent[] = []
  for (let at = 0; at < layer.size; ) {
    const run = await layer.extentAt(at, layer.size - at, plainIo)
    found.push(run)
    at += run.length
  }
  return found
}

describe('the map', () => {
  it('has sequential writes of any length lie in sequence', async () => {
    const file = await newImage({ size: 16 * MiB, cluster_size: 4096 })
    const { layer } = await openImage(file)
    for (
      let at = 0, length = 4096;
      at < MiB;
      at += length, length = length === 4096 ? 40960 : 4096
    ) {
      await layer.write(at, bytes(length), plainWriteIo)
    }
    const hosts = (await runs(layer)).flatMap((run) =>
      'host' in run && run.host ? [run.host] : [],
    )
    // One gap at most: L2 tables lie between the data of two.
    expect(hosts.length).toBeLessThanOrEqual(2)
  })

  it('answers with runs that reach over many L2 tables', async () => {
    const file = await newImage({ size: 64 * MiB, cluster_size: 512 })
    const { layer } = await openImage(file)
    expect(await runs(layer)).toEqual([{ offset: 0, length: 64 * MiB, kind: 'backing' }])
    await layer.writeZeroes(0, 64 * MiB, { ...plainZeroIo, mayUnmap: true })
    expect(await runs(layer)).toEqual([
      { offset: 0, length: 64 * MiB, kind: 'zero', allocated: false },
    ])
  })

  it('keeps clusters that are zeroed for later writes, unless they may be unmapped', async () => {
    const file = await newImage({ size: MiB })
    const { layer, image } = await openImage(file)
    await layer.write(0, bytes(131072), plainWriteIo)
    const [before] = await runs(layer)
    await layer.writeZeroes(0, 65536, plainZeroIo)
    await layer.writeZeroes(65536, 65536, { ...plainZeroIo, mayUnmap: true })
    const [kept, dropped] = await runs(layer)
    expect(kept).toMatchObject({ kind: 'zero', allocated: true, host: { offset: hostOf(before) } })
    expect(dropped).toMatchObject({ kind: 'zero', allocated: false })
    await layer.write(0, bytes(65536), plainWriteIo)
    expect((await runs(layer))[0]).toMatchObject({ host: { offset: hostOf(before) } })
    expect((await image.check('none')).messages).toEqual([])
  })

  it('has small writes into new clusters done at once where the storage answers at once', async () => {
    const base = MemoryLayer.of(bytes(MiB, 9))
    for (const backing of [undefined, base]) {
      const file = await newImage({ size: MiB, ...(backing && { backing_file: 'base' }) })
      const { layer } = await openImage(file, {}, backing)
      await layer.write(0, bytes(4096), plainWriteIo)
      for (let at = 0; at < MiB / 2; at += 65_536) {
        expect(layer.write(at + 8192, bytes(4096), plainWriteIo)).toBeUndefined()
      }
      const found = bytes(4 * 4096)
      await layer.read(65_536, found, plainIo)
      expect(found).toEqual(bytes(4 * 4096, backing ? 9 : 0).fill(1, 8192, 12_288))
    }
  })

  it('gives back what it took when the data cannot be written', async () => {
    const disk = new UnstableMemory({ size: 0 })
    await newImage({ size: MiB }, disk)
    const { layer, image } = await openImage(disk)
    await layer.write(0, bytes(4096), plainWriteIo)
    const fault = disk.faults.inject({ on: 'write', times: 1, code: 'NO_SPACE' })
    await expect(layer.write(MiB / 2, bytes(4096), plainWriteIo)).rejects.toMatchObject({
      code: 'NO_SPACE',
    })
    fault.remove()
    await layer.write(MiB / 2, bytes(4096), plainWriteIo)
    await layer.flush(plainIo)
    expect(await image.check('none')).toMatchObject({ leaks: 0, corruptions: 0 })
  })

  it('discards to zeroes, and in version 2 to nothing', async () => {
    for (const [compat, kind] of [
      ['1.1', 'zero'],
      ['0.10', 'backing'],
    ]) {
      const { layer } = await openImage(await newImage({ size: MiB, compat }))
      await layer.write(0, bytes(65536), plainWriteIo)
      await layer.discard(0, 65536, plainIo)
      expect((await runs(layer))[0]).toMatchObject({ offset: 0, kind })
    }
  })

  it('of version 2 over a backing file does not discard: old data would come back', async () => {
    const file = await newImage({ size: MiB, compat: '0.10', backing_file: 'base' })
    const { layer } = await openImage(file)
    await layer.write(0, bytes(65536), plainWriteIo)
    await layer.discard(0, 65536, plainIo)
    expect((await runs(layer))[0]).toMatchObject({ kind: 'data', length: 65536 })
  })

  it('gives the place of discarded clusters to later ones, once they are gone for good', async () => {
    const { layer, image } = await openImage(await newImage({ size: 8 * MiB }))
    await layer.write(0, bytes(4 * MiB), plainWriteIo)
    await layer.flush(plainIo)
    const used = image.refcounts.cached(0)!.bytes.slice()
    await layer.discard(0, 4 * MiB, plainIo)
    await layer.flush(plainIo)
    await layer.write(4 * MiB, bytes(4 * MiB), plainWriteIo)
    expect(image.refcounts.cached(0)!.bytes).toEqual(used)
  })

  it('names the entry, what is wrong and where, when a table is broken', async () => {
    const file = await newImage({ size: MiB })
    const { layer, image } = await openImage(file)
    await layer.write(17 * 32768, bytes(32768), plainWriteIo)
    const index = 8
    const at = image.l2Tables.offsetAt(0) + index * 8
    await layer[Symbol.asyncDispose]()
    await file.write(at + 6, Uint8Array.of(0x52, 0), plainWriteIo)
    const broken = await openImage(file)
    await expect(broken.layer.read(17 * 32768, bytes(512), plainIo)).rejects.toMatchObject({
      code: 'CORRUPT_IMAGE',
      node: 'disk0',
      offset: at,
      message:
        `disk0: Cluster allocation offset 0x55200 unaligned (L2 offset: 0x40000, L2 index: 0x${index}); ` +
        'the image is marked as corrupt, repair it',
    })
  })
})

describe('metadata', () => {
  it('is not written for every request, but at a flush, in few pieces', async () => {
    const disk = new UnstableMemory({ size: 0 })
    await newImage({ size: 64 * MiB }, disk)
    const { layer } = await openImage(disk)
    const start = disk.steps
    for (let at = 0; at < 64 * MiB; at += 65536) await layer.write(at, bytes(4096), plainWriteIo)
    const writes = disk.log.slice(start).filter(({ kind }) => kind === 'write')
    expect(writes.length).toBe(1024)
    const before = disk.steps
    await layer.flush(plainIo)
    expect(disk.log.slice(before).map(({ kind }) => kind)).toEqual([
      'write',
      'write',
      'flush',
      'write',
      'flush',
    ])
  })

  it('needs one flush, and no write, when only data was overwritten', async () => {
    const disk = new UnstableMemory({ size: 0 })
    await newImage({ size: MiB, preallocation: 'metadata' }, disk)
    const { layer } = await openImage(disk)
    await layer.write(0, bytes(65536), plainWriteIo)
    const before = disk.steps
    await layer.flush(plainIo)
    expect(disk.log.slice(before).map(({ kind }) => kind)).toEqual(['flush'])
  })

  it('with lazy refcounts sets the dirty bit first, and clears it when the image is closed', async () => {
    const disk = new UnstableMemory({ size: 0 })
    await newImage({ size: MiB, lazy_refcounts: true }, disk)
    const { layer } = await openImage(disk)
    await layer.write(0, bytes(512), plainWriteIo)
    await layer.flush(plainIo)
    const marked = await openImage(disk.crash(1), { readOnly: true })
    expect(marked.image.header.current.incompatibleFeatures).toBe(incompatible.dirty)
    const repaired = await openImage(disk.crash(1))
    expect(repaired.image.marked).toBe(false)
    expect((await repaired.image.check('none')).messages).toEqual([])
    await layer[Symbol.asyncDispose]()
    const closed = await openImage(disk, { readOnly: true })
    expect(closed.image.marked).toBe(false)
    expect((await closed.image.check('none')).messages).toEqual([])
  })

  it('with lazy refcounts is right for whoever checks the open image', async () => {
    const file = await newImage({ size: '1M', cluster_size: 512, lazy_refcounts: true })
    const { layer, image } = await openImage(file)
    await layer.write(0, new Uint8Array(512).fill(1), plainWriteIo)
    await layer.flush(plainIo)
    expect(image.marked).toBe(true)
    expect(await image.check('none')).toMatchObject({ corruptions: 0, leaks: 0 })
    await layer[Symbol.asyncDispose]()
  })

  it('that is marked as corrupt is read and not written', async () => {
    const file = await newImage({ size: MiB })
    await file.write(79, Uint8Array.of(2), plainWriteIo)
    await expect(openImage(file)).rejects.toMatchObject({
      code: 'CORRUPT_IMAGE',
      message: 'qcow2: Image is corrupt; cannot be opened read/write',
    })
    const { layer } = await openImage(file, { readOnly: true })
    await layer.read(0, bytes(512), plainIo)
  })

  it('loses the marks of features that are not known when it is opened for writing', async () => {
    const file = await newImage({ size: MiB })
    await file.write(88, Uint8Array.of(0x80), plainWriteIo)
    await openImage(file, { readOnly: true })
    const found = bytes(1)
    await file.read(88, found, plainIo)
    expect(found[0]).toBe(0x80)
    await openImage(file)
    await file.read(88, found, plainIo)
    expect(found[0]).toBe(0)
  })

  it('does not let a full disk lose anything', async () => {
    const disk = new UnstableMemory({ size: 0 })
    await newImage({ size: MiB }, disk)
    const { layer, image } = await openImage(disk)
    await layer.write(0, bytes(65536, 7), plainWriteIo)
    const fault = disk.faults.inject({ on: 'write', times: 100, code: 'NO_SPACE' })
    await expect(layer.write(65536, bytes(65536), plainWriteIo)).rejects.toMatchObject({
      code: 'NO_SPACE',
    })
    await expect(layer.flush(plainIo)).rejects.toMatchObject({ code: 'NO_SPACE' })
    fault.remove()
    await layer.flush(plainIo)
    await layer[Symbol.asyncDispose]()
    const again = await openImage(disk, { readOnly: true })
    expect((await again.image.check('none')).messages).toEqual([])
    const found = bytes(65536)
    await again.layer.read(0, found, plainIo)
    expect(found).toEqual(bytes(65536, 7))
    expect(image.marked).toBe(false)
  })
})

function hostOf(run: Extent): number {
  return 'host' in run && run.host ? run.host.offset : -1
}

describe('discard-no-unref', () => {
  it('has what is discarded or unmapped keep its place, and gives the space back', async () => {
    for (const options of [{}, { extended_l2: true, cluster_size: 65536 }]) {
      const file = await newImage({ size: MiB, ...options })
      const { layer, image } = await openImage(file, { keepDiscarded: true })
      await layer.write(0, bytes(262144), plainWriteIo)
      const [data] = await runs(layer)
      const place = 'host' in data ? data.host?.offset : undefined
      await layer.discard(0, 131072, plainIo)
      await layer.writeZeroes(131072, 131072, { ...plainZeroIo, mayUnmap: true })
      expect((await runs(layer))[0]).toMatchObject({
        kind: 'zero',
        allocated: true,
        length: 262144,
        host: { offset: place },
      })
      const stored = new Uint8Array(262144)
      await file.read(place!, stored, plainIo)
      expect(stored.every((byte) => byte === 0)).toBe(true)
      await layer.write(0, bytes(262144, 2), plainWriteIo)
      expect((await runs(layer))[0]).toMatchObject({ kind: 'data', host: { offset: place } })
      const { corruptions, leaks, messages } = await image.check('none')
      expect([corruptions, leaks], messages.join('; ')).toEqual([0, 0])
    }
  })

  it('is refused in version 2', async () => {
    const file = await newImage({ size: MiB, compat: '0.10' })
    await expect(openImage(file, { keepDiscarded: true })).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    })
  })
})
