import { describe, expect, it } from 'vitest'
import { testLayer } from '../../test/conformance/layer.ts'
import { plainIo, plainWriteIo } from '../block/layer.ts'
import { TiB } from '../bytes/range.ts'
import { MemoryLayer, memory } from './memory.ts'
import { nullCo } from './null.ts'

testLayer('memory', async (size) => new MemoryLayer({ size }))
testLayer('memory, blocks of 4 KiB', async (size) => new MemoryLayer({ size, alignment: 4096 }), {
  size: 1284 * 1024,
})
testLayer('memory, read-only', async () => {
  const content = new Uint8Array(200_000).fill(1, 5000, 90_000)
  const content2 = content.slice()
  const layer = MemoryLayer.of(content2)
  return { layer, content, [Symbol.asyncDispose]: () => layer[Symbol.asyncDispose]() }
})
testLayer(
  'null-co',
  async (size) => nullCo.open(nullCo.parse({ size, 'read-zeroes': true }), {} as never),
  { forgets: true },
)

describe('memory', () => {
  it('holds a sparse disk of 16 TiB', () => {
    const disk = new MemoryLayer({ size: 16 * TiB })
    disk.write(16 * TiB - 2, Uint8Array.of(1, 2), plainWriteIo)
    disk.write(5 * TiB, Uint8Array.of(3), plainWriteIo)
    const first = disk.extentAt(0, 16 * TiB, plainIo)
    expect(first).toEqual({ kind: 'zero', offset: 0, length: 5 * TiB, allocated: false })
    const data = disk.extentAt(5 * TiB, 11 * TiB, plainIo)
    expect(data).toEqual({ kind: 'data', offset: 5 * TiB, length: 65536 })
    disk.discard(0, 16 * TiB, plainIo)
    expect(disk.extentAt(0, 16 * TiB, plainIo)).toMatchObject({ kind: 'zero', length: 16 * TiB })
  })

  it('grows when written behind its end', () => {
    const disk = new MemoryLayer({ size: 0 })
    disk.write(100, Uint8Array.of(1, 2, 3), plainWriteIo)
    expect(disk.size).toBe(103)
  })

  it('is refused without a size, and with one beyond the limit', () => {
    expect(() => memory.parse({})).toThrowError(/size/)
    expect(() => memory.parse({ size: 2 ** 53 - 1 })).toThrowError(/8 PiB/)
    expect(() => memory.parse({ size: 1, sise: 2 })).toThrowError(/sise/)
  })

  it('refuses work after it was closed', async () => {
    const disk = new MemoryLayer({ size: 10 })
    await disk[Symbol.asyncDispose]()
    expect(() => disk.read(0, new Uint8Array(1), plainIo)).toThrowError(
      expect.objectContaining({ code: 'CLOSED' }),
    )
  })
})
