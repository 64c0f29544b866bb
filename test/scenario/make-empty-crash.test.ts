/** Emptying an overlay that was committed: a crash at any point changes nothing of what is read. */
import { expect, it } from 'vitest'
import { plainIo, plainWriteIo } from '../../src/block/layer.ts'
import { makeEmpty } from '../../src/format/qcow2/make-empty.ts'
import { MemoryLayer } from '../../src/protocol/memory.ts'
import { UnstableMemory } from '../../src/protocol/unstable-memory/unstable-memory.ts'
import { newImage, openImage } from '../support/qcow2.ts'
import { addSnapshot, showSnapshot } from '../support/qcow2-snapshot.ts'
import { Random, runSeed, seedNote } from '../support/random.ts'

const size = 192 * 1024

it.each([
  ['clusters of 512 bytes', { cluster_size: 512 }, false],
  ['version 2', { cluster_size: 1024, compat: '0.10' }, false],
  ['lazy refcounts', { cluster_size: 1024, lazy_refcounts: true }, false],
  ['a snapshot', { cluster_size: 512 }, true],
] as const)(`%s (${seedNote})`, async (_, create, snapshot) => {
  const random = new Random()
  const content = random.bytes(size)
  const file = await newImage({ size, backing_file: 'base', backing_fmt: 'raw', ...create })
  const { layer } = await openImage(file, {}, MemoryLayer.of(content))
  for (let step = 0; step < 30; step++) {
    const [offset, length] = random.range(size, 512, 20_000)
    await layer.write(offset, content.subarray(offset, offset + length), plainWriteIo)
  }
  await layer[Symbol.asyncDispose]()
  if (snapshot) await addSnapshot(file)
  const before = new Uint8Array(file.size)
  await file.read(0, before, plainIo)

  // The backing file has it all: it has been committed.
  const backing = () => MemoryLayer.of(content)
  const storage = new UnstableMemory({ size: before.length, content: before })
  const open = await openImage(storage, {}, backing())
  await makeEmpty(open.image, plainIo)
  for (let at = 0; at < size; ) {
    const run = await open.layer.extentAt(at, size - at, plainIo)
    expect(run.kind).toBe('backing')
    at += run.length
  }
  await open.layer[Symbol.asyncDispose]()

  for (const crash of storage.crashes(runSeed)) {
    const { image, layer: shown } = await openImage(crash.disk, {}, backing())
    const { corruptions, checkErrors, messages } = await image.check('none')
    expect([corruptions, checkErrors], `${crash}: ${messages.join('; ')}`).toEqual([0, 0])
    const bytes = new Uint8Array(size)
    await shown.read(0, bytes, plainIo)
    expect(Buffer.compare(bytes, content), `${crash}`).toBe(0)
    await shown[Symbol.asyncDispose]()
    if (snapshot) await showSnapshot(crash.disk)
  }
})
