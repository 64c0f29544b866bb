/** A crash while an image is amended leaves the one image or the other, with the same disk. */
import { expect, it } from 'vitest'
import {
  type BlockLayer,
  neverAborted,
  plainIo,
  plainWriteIo,
  plainZeroIo,
} from '../../src/block/layer.ts'
import { imageAmend } from '../../src/format/qcow2/amend/amend.ts'
import { UnstableMemory } from '../../src/protocol/unstable-memory/unstable-memory.ts'
import { newImage, openImage } from '../support/qcow2.ts'
import { addSnapshot, showSnapshot } from '../support/qcow2-snapshot.ts'
import { Random, runSeed, seedNote } from '../support/random.ts'

const diskSize = 192 * 1024

type Options = Readonly<Record<string, unknown>>

const cases: readonly [title: string, create: Options, amend: Options, snapshot?: 'snapshot'][] = [
  ['wider refcounts', { cluster_size: 512 }, { refcount_bits: 64 }],
  ['narrower refcounts', { cluster_size: 512, refcount_bits: 64 }, { refcount_bits: 1 }],
  ['other refcounts beside a snapshot', { cluster_size: 512 }, { refcount_bits: 2 }, 'snapshot'],
  ['version 3', { cluster_size: 4096, compat: 'v2' }, { compat: 'v3', refcount_bits: 32 }],
  ['version 2', { cluster_size: 4096 }, { compat: 'v2' }],
  ['version 2 with clusters of 512 bytes', { cluster_size: 512 }, { compat: 'v2' }],
  ['version 2 with a snapshot', { cluster_size: 1024 }, { compat: 'v2' }, 'snapshot'],
  ['lazy refcounts', { cluster_size: 512 }, { lazy_refcounts: true, size: diskSize * 40 }],
]

it.each(cases)(`survives a crash: %s (${seedNote})`, async (_, create, options, snapshot) => {
  const random = new Random()
  const { before, content } = await prepared(create, random, snapshot !== undefined)
  const storage = new UnstableMemory({ size: before.length, content: before })
  const { layer, image } = await openImage(storage)
  const resize = (size: number) => layer.truncate(size, plainIo)
  await imageAmend(image).run({ options, resize, signal: neverAborted })
  // The image stays in use.
  const late = random.bytes(4096)
  await layer.write(8192, late, plainWriteIo)
  await layer.flush(plainIo)
  const done = storage.steps
  await layer[Symbol.asyncDispose]()

  for (const crash of storage.crashes(runSeed)) {
    const found = await openImage(crash.disk)
    const { corruptions, checkErrors, messages } = await found.image.check('none')
    expect([corruptions, checkErrors], `${crash}: ${messages.join('; ')}`).toEqual([0, 0])
    const shown = await contentOf(found.layer)
    const rest = (bytes: Uint8Array) => [bytes.subarray(0, 8192), bytes.subarray(12288)]
    expect(rest(shown), `${crash}`).toEqual(rest(content))
    if (crash.step >= done) expect(shown.subarray(8192, 12288)).toEqual(late)
    await found.layer[Symbol.asyncDispose]()
    if (snapshot) {
      await showSnapshot(crash.disk)
      const old = await openImage(crash.disk, { readOnly: true })
      expect((await contentOf(old.layer)).subarray(0, 65536), `${crash}`).toEqual(snapshotContent)
    }
  }
})

const snapshotContent = new Uint8Array(65536).fill(0xb5)

/** An image with data, zeroes of both kinds and holes; what is on its disk. */
async function prepared(create: Options, random: Random, snapshot: boolean) {
  const file = await newImage({ size: diskSize, ...create })
  const first = await openImage(file)
  await first.layer.write(0, snapshotContent, plainWriteIo)
  await first.layer[Symbol.asyncDispose]()
  if (snapshot) await addSnapshot(file)
  const { layer } = await openImage(file)
  await layer.write(65536, random.bytes(65536), plainWriteIo)
  await layer.writeZeroes(4096, 16384, plainZeroIo)
  await layer.writeZeroes(81920, 16384, { ...plainZeroIo, mayUnmap: true })
  await layer.writeZeroes(106496, 8192, plainZeroIo)
  const content = await contentOf(layer)
  await layer[Symbol.asyncDispose]()
  const before = new Uint8Array(file.size)
  await file.read(0, before, plainIo)
  return { before, content }
}

async function contentOf(layer: BlockLayer): Promise<Uint8Array> {
  const content = new Uint8Array(diskSize)
  await layer.read(0, content, plainIo)
  return content
}
