/**
 * The promise of crypto/luks/key-slots.ts: whenever the power fails while key slots are changed,
 * one of the passwords that should open the disk does, and every slot that is marked as active
 * opens with one of them.
 */
import { expect, it } from 'vitest'
import { neverAborted } from '../../src/block/layer.ts'
import type { LuksHeader } from '../../src/crypto/luks/header.ts'
import { KeySlots } from '../../src/crypto/luks/key-slots.ts'
import { fileStorage } from '../../src/format/luks/file-storage.ts'
import { luks } from '../../src/format/luks/luks.ts'
import { MemoryLayer } from '../../src/protocol/memory.ts'
import { UnstableMemory } from '../../src/protocol/unstable-memory/unstable-memory.ts'
import { openContext } from '../support/context.ts'
import { runSeed, seedNote } from '../support/random.ts'

const passwords: Readonly<Record<string, Uint8Array>> = {
  s: Buffer.from('open sesame'),
  n: Buffer.from('new'),
}
const secrets = async (id: string) => passwords[id]

async function newDisk(): Promise<Uint8Array> {
  const file = new MemoryLayer({ size: 0 })
  const options = { size: 512, 'key-secret': 's', 'iter-time': 1, 'cipher-alg': 'aes-128' }
  const parsed = luks.creator?.parse(options)
  if (!parsed) throw new Error('luks images cannot be made')
  await luks.creator?.create(parsed, { file, secrets, signal: neverAborted })
  const bytes = new Uint8Array(file.size)
  await file.read(0, bytes, { signal: neverAborted })
  return bytes
}

type Step = readonly [options: Readonly<Record<string, unknown>>, keySecret: string]

const stories: readonly { title: string; steps: readonly Step[] }[] = [
  {
    title: 'a password is replaced by another',
    steps: [
      [{ state: 'active', 'new-secret': 'n', keyslot: 6, 'iter-time': 1 }, 's'],
      [{ state: 'inactive', 'old-secret': 's' }, 'n'],
    ],
  },
  {
    title: 'the only slot is overwritten',
    steps: [[{ state: 'active', 'new-secret': 'n', keyslot: 0, 'iter-time': 1 }, 's']],
  },
  {
    title: 'a slot across two sectors comes and goes',
    steps: [
      [{ state: 'active', 'new-secret': 's', keyslot: 6, 'iter-time': 1 }, 's'],
      [{ state: 'inactive', keyslot: 6 }, 's'],
    ],
  },
]

for (const { title, steps } of stories) {
  it(`a crash leaves a password that opens the disk: ${title} (${seedNote})`, async () => {
    const content = await newDisk()
    const storage = new UnstableMemory({ size: content.length, content })
    for (const [options, keySecret] of steps) {
      const child = async () => storage
      const layer = await luks.open(
        { file: 'file', keySecret },
        { ...openContext(), secrets, child },
      )
      await layer.amend?.run({ options, force: true, signal: neverAborted })
    }
    for (const seed of [runSeed, runSeed + 1, runSeed + 2]) {
      for (const crash of storage.crashes(seed)) {
        const keys = await KeySlots.open(fileStorage(crash.disk))
        expect(keys.active.length, `${crash}`).toBeGreaterThan(0)
        for (const slot of keys.active) await expectOpens(keys, slot, `${crash}, slot ${slot}`)
      }
    }
  })
}

async function expectOpens(keys: KeySlots, slot: number, note: string): Promise<void> {
  for (const password of Object.values(passwords)) {
    if (await keys.tryUnlock(slot, password)) return
  }
  expect.fail(note)
}

it('an erased slot leaves neither its key material nor its salt', async () => {
  const content = await newDisk()
  const file = MemoryLayer.of(content.slice())
  const keys = await KeySlots.open(fileStorage(file))
  const before: LuksHeader = keys.header
  const { offset } = before.slots[0]
  await keys.erase(0)
  const after = new Uint8Array(content.length)
  await file.read(0, after, { signal: neverAborted })
  const material = Buffer.from(content.subarray(offset, offset + 64_000))
  const same = material.filter((byte, at) => byte === after[offset + at]).length
  // As often as chance has it.
  expect(same).toBeLessThan(material.length / 100)
  expect(Buffer.from(after).includes(Buffer.from(before.slots[0].salt))).toBe(false)
})
