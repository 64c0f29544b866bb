/**
 * Persistent bitmaps of qcow2: what comes back when an image is opened again, what a crash leaves,
 * and what happens when storing fails. The order of writes is described in qcow2/bitmaps.ts.
 */
import { describe, expect, it } from 'vitest'
import { plainIo, plainWriteIo } from '../../src/block/layer.ts'
import { KiB, MiB } from '../../src/bytes/range.ts'
import { addBitmap, enableBitmap, removeBitmap } from '../../src/graph/bitmap-actions.ts'
import type { MemoryLayer } from '../../src/protocol/memory.ts'
import { UnstableMemory } from '../../src/protocol/unstable-memory/unstable-memory.ts'
import { dirtyText, openSession, type Session } from '../support/bitmaps.ts'
import { newImage, openImage } from '../support/qcow2.ts'
import { Random, runSeed, seedNote } from '../support/random.ts'

const diskSize = 192 * KiB

const states = ({ node }: Session) =>
  [...node.bitmaps].map((each) => [each.name, each.granularity, each.enabled, dirtyText(each)])

async function faultsOf(file: ConstructorParameters<typeof MemoryLayer>[0] | MemoryLayer) {
  const { image, layer } = await openImage(file as MemoryLayer, { check: true })
  const { corruptions, leaks, checkErrors, messages } = await image.check('none')
  await layer[Symbol.asyncDispose]()
  return { corruptions, leaks, checkErrors, messages: messages.join('; ') }
}

const sound = { corruptions: 0, leaks: 0, checkErrors: 0, messages: '' }

describe('bitmaps that are kept in the image', () => {
  it.each([
    { cluster_size: 512 },
    { cluster_size: 4096, refcount_bits: 1 },
    { cluster_size: 65536, lazy_refcounts: true },
  ])('come back as they were: %j', async (create) => {
    const size = 20 * MiB + 512
    const file = (await newImage({ size, ...create })) as MemoryLayer
    const first = await openSession(file)
    for (const granularity of [512, 4096, 65536, MiB]) {
      addBitmap(first.node, { name: `g${granularity}`, granularity, persistent: true })
    }
    addBitmap(first.node, { name: 'off', persistent: true, disabled: true })
    addBitmap(first.node, { name: 'gone' })
    await first.guest.write(1000, new Uint8Array(70_000).fill(1))
    await first.guest.write(size - 100, new Uint8Array(100).fill(2))
    first.node.bitmaps.get('g4096')?.add(0, 16 * MiB)
    enableBitmap(first.node, 'g65536', false)
    const before = states(first).filter(([name]) => name !== 'gone')
    await first.close()
    expect(await faultsOf(file)).toEqual(sound)

    const second = await openSession(file)
    expect(states(second).sort()).toEqual(before.sort())
    await second.guest.write(5 * MiB, new Uint8Array(512).fill(3))
    const after = states(second)
    await second.close()
    const third = await openSession(file, { 'read-only': true })
    expect(states(third)).toEqual(after)
    await third.close()
    expect(await faultsOf(file)).toEqual(sound)
  })

  it('are gone at once when they are removed, and the last takes the directory along', async () => {
    const file = (await newImage({ size: diskSize, cluster_size: 512 })) as MemoryLayer
    const session = await openSession(file)
    addBitmap(session.node, { name: 'a', persistent: true })
    addBitmap(session.node, { name: 'b', persistent: true })
    await session.close()
    for (const name of ['a', 'b']) {
      const again = await openSession(file)
      ;(await removeBitmap(again.node, name)).commit()
      expect(again.node.layer.bitmaps?.list().map((each) => each.name)).not.toContain(name)
      await again.close()
      expect(await faultsOf(file)).toEqual(sound)
    }
    const last = await openSession(file)
    expect(states(last)).toEqual([])
    await last.close()
  })

  it('follow the size of the disk', async () => {
    const file = (await newImage({ size: diskSize, cluster_size: 512 })) as MemoryLayer
    const session = await openSession(file)
    addBitmap(session.node, { name: 'a', granularity: 512, persistent: true })
    await session.guest.write(0, new Uint8Array(512).fill(1))
    await session.guest.truncate(16 * MiB)
    await session.guest.write(16 * MiB - 512, new Uint8Array(512).fill(1))
    await session.close()
    const again = await openSession(file)
    expect(states(again)).toEqual([['a', 512, true, `0+512 ${16 * MiB - 512}+512`]])
    await again.guest.truncate(64 * KiB)
    await again.close()
    const last = await openSession(file)
    expect(states(last)).toEqual([['a', 512, true, '0+512']])
    await last.close()
    expect(await faultsOf(file)).toEqual(sound)
  })

  it('say nothing of the state of a machine, which lies behind the disk', async () => {
    const file = (await newImage({ size: diskSize + 512, cluster_size: 512 })) as MemoryLayer
    const session = await openSession(file)
    addBitmap(session.node, { name: 'a', granularity: 4096, persistent: true })
    await session.guest.vmState!.write(0, new Uint8Array(5000).fill(1), plainWriteIo)
    expect(states(session)).toEqual([['a', 4096, true, '']])
    await session.close()
    expect(await faultsOf(file)).toEqual(sound)
  })

  it('are ignored, and dropped, when somebody has written without keeping them', async () => {
    const file = (await newImage({ size: diskSize })) as MemoryLayer
    const session = await openSession(file)
    addBitmap(session.node, { name: 'a', persistent: true })
    await session.close()
    await file.write(95, new Uint8Array(1), plainIo as never)
    const again = await openSession(file)
    expect(states(again)).toEqual([])
    addBitmap(again.node, { name: 'b', persistent: true })
    await again.close()
    const last = await openSession(file)
    expect(states(last).map(([name]) => name)).toEqual(['b'])
    await last.close()
    expect(await faultsOf(file)).toMatchObject({ corruptions: 0, leaks: 2 })
  })
})

/** Everywhere different, so that a piece of it in another place is seen. */
const longName = Array.from({ length: 250 }, (_, index) => 100 + index).join('')

describe('bitmaps after a crash', () => {
  it.each([
    { cluster_size: 512 },
    { cluster_size: 4096, lazy_refcounts: true },
    { cluster_size: 1024, backing_file: 'a name that makes the header longer than a sector' },
    // The header takes both sectors, and there is no room for a bridge.
    { cluster_size: 1024, backing_file: longName },
  ])(
    `are in use, or right: %j (${seedNote})`,
    async (create: { cluster_size: number; backing_file?: string }) => {
      const random = new Random()
      const file = await newImage({ size: diskSize, ...create })
      const content = new Uint8Array(file.size)
      await file.read(0, content, plainIo)
      const storage = new UnstableMemory({ size: content.length, content })
      const names = ['a', 'b', 'c']
      const step = { closed: 0 }
      /** For each bitmap: what was stored, and from which step until which it may be relied on. */
      const stored: { name: string; text: string; from: number; until: number; sure: number }[] = []
      for (let round = 0; round < 6; round++) {
        const session = await openSession(storage, { backing: null })
        for (const each of stored) each.until = Math.min(each.until, storage.steps)
        for (const name of names) {
          const there = session.node.bitmaps.get(name)
          if (!there) {
            const granularity = 512 * 2 ** random.below(4)
            addBitmap(session.node, { name, granularity, persistent: true })
          } else if (random.chance(0.3)) {
            ;(await removeBitmap(session.node, name)).commit()
          }
        }
        for (let count = 0; count < 4; count++) {
          const [offset, length] = random.range(diskSize, 512, 16 * KiB)
          await session.guest.write(offset, random.bytes(length))
        }
        const texts = [...session.node.bitmaps].map((each) => [each.name, dirtyText(each)])
        const from = storage.steps
        await session.close()
        step.closed = storage.steps
        for (const [name, text] of texts) {
          stored.push({ name, text, from, until: Number.POSITIVE_INFINITY, sure: step.closed })
        }
      }
      for (let chance = 0; chance < 2; chance++) {
        for (const crash of storage.crashes(runSeed + chance)) {
          const note = `${crash}`
          const found = await faultsOf(crash.disk)
          expect([found.corruptions, found.checkErrors], `${note}: ${found.messages}`).toEqual([
            0, 0,
          ])
          const session = await openSession(crash.disk, { backing: null, 'read-only': true })
          const { recorded } = session.node.layer.backingLink!
          expect(recorded?.filename, note).toBe(create.backing_file)
          for (const bitmap of session.node.bitmaps) {
            if (bitmap.inconsistent) continue
            const possible = stored.filter(
              ({ name, from, until }) =>
                name === bitmap.name && from <= crash.step && crash.step <= until,
            )
            const texts = possible.map(({ text }) => text)
            expect(texts, `${note}: ${bitmap.name}`).toContain(dirtyText(bitmap))
          }
          const sure = stored.filter(({ sure, until }) => sure <= crash.step && crash.step < until)
          for (const { name } of sure.filter(({ until }) => until === Number.POSITIVE_INFINITY)) {
            expect(session.node.bitmaps.get(name)?.inconsistent, `${note}: ${name}`).toBe(false)
          }
          await session.close()
        }
      }
    },
  )

  it(`nothing is lost when storing fails, and the image stays sound (${seedNote})`, async () => {
    const random = new Random()
    const storage = new UnstableMemory({ size: 0 })
    await newImage({ size: diskSize, cluster_size: 512 }, storage)
    let failures = 0
    for (let round = 0; round < 60; round++) {
      const session = await openSession(storage)
      if (!session.node.bitmaps.get(`b${round % 4}`)) {
        addBitmap(session.node, { name: `b${round % 4}`, granularity: 512, persistent: true })
      } else {
        ;(await removeBitmap(session.node, `b${round % 4}`)).commit()
      }
      const [offset, length] = random.range(diskSize, 512, 8 * KiB)
      const data = random.bytes(length)
      await session.guest.write(offset, data)
      await session.guest.flush()
      storage.faults.inject({
        on: random.pick(['write', 'flush', 'truncate'] as const),
        nth: 1 + random.below(12),
        code: random.pick(['IO', 'NO_SPACE'] as const),
        arrives: random.pick([0, 512, 1000]),
      })
      try {
        await session.close()
      } catch {
        failures++
      }
      storage.faults.clear()
      const found = await faultsOf(storage as unknown as MemoryLayer)
      expect([found.corruptions, found.checkErrors], found.messages).toEqual([0, 0])
      const again = await openSession(storage)
      const seen = new Uint8Array(length)
      await again.guest.read(offset, seen)
      expect(Buffer.compare(seen, data)).toBe(0)
      for (const bitmap of [...again.node.bitmaps]) {
        if (bitmap.inconsistent) (await removeBitmap(again.node, bitmap.name)).commit()
      }
      await again.close()
    }
    expect(failures).toBeGreaterThan(5)
  })
})
