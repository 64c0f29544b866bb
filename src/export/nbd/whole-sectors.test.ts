import { expect, test } from 'vitest'
import { plainIo, plainWriteIo } from '../../block/layer.ts'
import { MemoryLayer } from '../../protocol/memory.ts'
import { inWholeSectors } from './whole-sectors.ts'

function disk(size: number) {
  const memory = new MemoryLayer({ size })
  memory.write(0, new Uint8Array(size).fill(7), plainWriteIo)
  return { memory, shown: inWholeSectors(memory) }
}

test('a disk of whole sectors is shown as it is', () => {
  const { memory, shown } = disk(1024)
  expect(shown).toBe(memory)
})

test('behind the end there are zeroes up to the end of the sector', async () => {
  const { shown } = disk(1000)
  expect(shown.size).toBe(1024)
  const target = new Uint8Array(40).fill(1)
  await shown.read(984, target, plainIo)
  expect([...target]).toEqual([...Array(16).fill(7), ...Array(24).fill(0)])
  await shown.read(1010, target.subarray(0, 14), plainIo)
  expect(await shown.extentAt(1000, 24, plainIo)).toMatchObject({ kind: 'zero', length: 24 })
})

test('a write behind the end makes the disk that much longer', async () => {
  const { memory, shown } = disk(1000)
  await shown.write(900, new Uint8Array(50), plainWriteIo)
  expect(memory.size).toBe(1000)
  const writes = [1020, 1010].map((end) =>
    shown.write(990, new Uint8Array(end - 990).fill(5), plainWriteIo),
  )
  await Promise.all(writes)
  expect(memory.size).toBe(1020)
  expect(shown.size).toBe(1024)
})

test('a discard of the end is one of what there is', async () => {
  const { memory, shown } = disk(1000)
  await shown.discard(512, 512, plainIo)
  await shown.discard(1000, 24, plainIo)
  expect(memory.size).toBe(1000)
})
