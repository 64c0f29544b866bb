import { describe, expect, it } from 'vitest'
import { newImage, openImage } from '../../../test/support/qcow2.ts'
import { type BlockLayer, plainIo } from '../../block/layer.ts'
import { UnstableMemory } from '../../protocol/unstable-memory/unstable-memory.ts'
import { backingLink } from './backing-link.ts'

type BackingName = { filename: string; format?: string } | undefined

async function recorded(file: BlockLayer): Promise<BackingName> {
  const { image } = await openImage(file, { readOnly: true })
  return backingLink(image).recorded
}

const long = `/images/${'x'.repeat(900)}`

describe('the record of the backing file', () => {
  it.each([
    [{}],
    [{ cluster_size: 4096 }],
    [{ compat: '0.10' }],
    [{ backing_file: 'base', backing_fmt: 'raw' }],
    [{ backing_file: long, backing_fmt: 'qcow2' }],
  ])('can be made, changed and taken away: %o', async (options) => {
    const file = await newImage({ size: '1M', ...options })
    const { image } = await openImage(file)
    const names: BackingName[] = [
      { filename: 'a', format: 'raw' },
      { filename: long, format: 'qcow2' },
      { filename: 'b' },
      undefined,
      { filename: 'c', format: 'vmdk' },
    ]
    for (const name of names) {
      await backingLink(image).change(name, plainIo)
      expect(backingLink(image).recorded).toEqual(name)
      expect(await recorded(file)).toEqual(name)
      expect((await image.check('none')).corruptions).toBe(0)
    }
    await image.close()
  })

  it('is the old one or the new one after a crash at any step', async () => {
    const before = { filename: 'base.raw', format: 'raw' }
    const disk = new UnstableMemory({ size: 0 })
    await newImage({ size: '1M', backing_file: 'base.raw', backing_fmt: 'raw' }, disk)
    const start = disk.steps
    const { image } = await openImage(disk)
    const after = { filename: long, format: 'qcow2' }
    await backingLink(image).change(after, plainIo)
    for (let seed = 0; seed < 20; seed++) {
      for (let step = start; step <= disk.steps; step++) {
        const found = await recorded(disk.crashAfter(step, seed))
        expect([before, after]).toContainEqual(found)
        if (step === disk.steps) expect(found).toEqual(after)
      }
    }
  })

  it.each([
    // The bridge has room for one of the two names.
    [2048, 'b'.repeat(700), { tear: true }],
    // There is no room for a bridge: one write, and a disk that tears it within a cluster is out of luck.
    [1024, 'b'.repeat(700), { tear: false }],
  ])('is the old one or the new one in clusters of %d', async (cluster_size, filename, crash) => {
    const before = { filename: 'a'.repeat(700), format: 'raw' }
    const disk = new UnstableMemory({ size: 0 })
    const options = { size: '1M', cluster_size, backing_file: before.filename, backing_fmt: 'raw' }
    await newImage(options, disk)
    const start = disk.steps
    const { image } = await openImage(disk)
    const after = { filename, format: 'qcow2' }
    await backingLink(image).change(after, plainIo)
    for (let seed = 0; seed < 20; seed++) {
      for (let step = start; step <= disk.steps; step++) {
        const found = await recorded(disk.crashAfter(step, seed, crash))
        expect([before, after]).toContainEqual(found)
        if (step === disk.steps) expect(found).toEqual(after)
      }
    }
  })

  it('is not changed where the name is too long or the image read-only', async () => {
    const file = await newImage({ size: '1M' })
    const { image } = await openImage(file)
    const tooLong = { filename: 'x'.repeat(1024) }
    await expect(backingLink(image).change(tooLong, plainIo)).rejects.toMatchObject({
      code: 'INVALID_ARGUMENT',
    })
    await image.close()
    const { image: readOnly } = await openImage(file, { readOnly: true })
    await expect(backingLink(readOnly).change(undefined, plainIo)).rejects.toMatchObject({
      code: 'READ_ONLY',
    })
  })
})
