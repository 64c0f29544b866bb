import { describe, expect, it } from 'vitest'
import { testLayer } from '../../../test/conformance/layer.ts'
import { plainIo, plainWriteIo, plainZeroIo } from '../../block/layer.ts'
import type { MemoryLayer } from '../memory.ts'
import { UnstableMemory } from './unstable-memory.ts'

testLayer('unstable memory', async (size) => new UnstableMemory({ size }))
testLayer('unstable memory, answers delayed', async (size) => {
  return new UnstableMemory({ size, delaySeed: 3 })
})

const seeds = Array.from({ length: 40 }, (_, index) => index)

function contentOf(disk: MemoryLayer): Uint8Array {
  const bytes = new Uint8Array(disk.size)
  disk.read(0, bytes, plainIo)
  return bytes
}

function write(disk: UnstableMemory, offset: number, length: number, value: number, fua = false) {
  disk.write(offset, new Uint8Array(length).fill(value), { ...plainWriteIo, fua })
}

describe('a crash', () => {
  it('keeps what was flushed, whatever the seed', () => {
    const disk = new UnstableMemory({ size: 4096 })
    write(disk, 0, 4096, 1)
    disk.flush(plainIo)
    for (const seed of seeds) expect(new Set(contentOf(disk.crash(seed)))).toEqual(new Set([1]))
  })

  it('may lose, keep, or tear by sectors what was not', () => {
    const disk = new UnstableMemory({ size: 4096, content: new Uint8Array(4096).fill(9) })
    write(disk, 0, 4096, 1)
    const seen = new Set<string>()
    for (const seed of seeds) {
      const bytes = contentOf(disk.crash(seed))
      for (let sector = 0; sector < 8; sector++) {
        expect(new Set(bytes.subarray(sector * 512, sector * 512 + 512)).size).toBe(1)
      }
      const values = new Set(bytes)
      seen.add(values.size === 2 ? 'torn' : values.has(1) ? 'kept' : 'lost')
    }
    expect(seen).toEqual(new Set(['torn', 'kept', 'lost']))
    // The disk itself has noticed nothing.
    const now = new Uint8Array(4096)
    disk.read(0, now, plainIo)
    expect(new Set(now)).toEqual(new Set([1]))
  })

  it('may show overlapping writes in the other order', () => {
    const disk = new UnstableMemory({ size: 512 })
    write(disk, 0, 512, 1)
    write(disk, 0, 512, 2)
    const options = { lose: false, tear: false }
    const shown = seeds.map((seed) => contentOf(disk.crash(seed, options))[0])
    expect(new Set(shown)).toEqual(new Set([1, 2]))
    const inOrder = seeds.map(
      (seed) => contentOf(disk.crash(seed, { ...options, reorder: false }))[0],
    )
    expect(new Set(inOrder)).toEqual(new Set([2]))
  })

  it('never undoes a write with force unit access, nor shows what was there before it', () => {
    const disk = new UnstableMemory({ size: 2048 })
    write(disk, 0, 2048, 1)
    write(disk, 700, 100, 2, true)
    for (const seed of seeds) {
      const bytes = contentOf(disk.crash(seed))
      expect(new Set(bytes.subarray(700, 800))).toEqual(new Set([2]))
    }
    write(disk, 0, 2048, 3)
    const later = seeds.map((seed) => contentOf(disk.crash(seed))[700])
    expect(new Set(later)).toEqual(new Set([2, 3]))
  })

  it('may forget that the disk became longer', () => {
    const disk = new UnstableMemory({ size: 512 })
    write(disk, 512, 512, 1)
    disk.truncate(4096, plainIo)
    const sizes = new Set(seeds.map((seed) => disk.crash(seed).size))
    expect(sizes).toEqual(new Set([512, 1024, 4096]))
    disk.flush(plainIo)
    expect(new Set(seeds.map((seed) => disk.crash(seed).size))).toEqual(new Set([4096]))
  })

  it('can be looked at after each step, and again', () => {
    const disk = new UnstableMemory({ size: 4096 })
    write(disk, 0, 512, 1)
    disk.flush(plainIo)
    write(disk, 512, 512, 2)
    disk.writeZeroes(0, 512, plainZeroIo)
    const steps = [...disk.crashes(7)]
    expect(steps.map(({ step }) => step)).toEqual([0, 1, 2, 3, 4])
    for (const { step, seed, disk: found } of steps) {
      expect(contentOf(found)).toEqual(contentOf(disk.crashAfter(step, seed)))
    }
    expect(contentOf(steps[2].disk)[0]).toBe(1)
    expect(`${steps[3]}`).toBe('crash after step 3 of seed 7')
  })

  it('leaves disks that do not share what they change', () => {
    const disk = new UnstableMemory({ size: 512, content: new Uint8Array(512).fill(1) })
    const found = disk.crash(1)
    found.write(0, Uint8Array.of(5), plainWriteIo)
    write(disk, 1, 1, 6)
    expect([...contentOf(found).subarray(0, 2)]).toEqual([5, 1])
    expect([...contentOf(disk.crashAfter(0, 1)).subarray(0, 2)]).toEqual([1, 1])
  })
})

describe('a fault', () => {
  it('hits the request that it names and no other', () => {
    const disk = new UnstableMemory({ size: 4096 })
    const fault = disk.faults.inject({ on: 'write', nth: 2, code: 'NO_SPACE' })
    write(disk, 0, 512, 1)
    const failing = () => write(disk, 512, 512, 2)
    expect(failing).toThrowError(
      expect.objectContaining({ code: 'NO_SPACE', errno: 'ENOSPC', offset: 512 }),
    )
    write(disk, 512, 512, 2)
    expect(fault.hits).toBe(1)
    expect(`${fault}`).toBe('the 2nd write fails with NO_SPACE')
  })

  it('can last, can be limited to a range, and can leave a part of the write', () => {
    const disk = new UnstableMemory({ size: 4096 })
    const range = { offset: 1024, length: 512 }
    const fault = disk.faults.inject({ on: 'write', range, times: Infinity, arrives: 100 })
    write(disk, 0, 1024, 1)
    for (let attempt = 0; attempt < 3; attempt++) {
      expect(() => write(disk, 1024, 512, 2)).toThrowError(/injected/)
    }
    expect(fault.hits).toBe(3)
    fault.remove()
    const found = new Uint8Array(512)
    disk.read(1024, found, plainIo)
    expect(found.lastIndexOf(2)).toBe(99)
    write(disk, 1024, 512, 2)
  })

  it('of a flush leaves what it should have stored at risk', () => {
    const disk = new UnstableMemory({ size: 512 })
    disk.faults.inject({ on: 'flush' })
    write(disk, 0, 512, 1)
    expect(() => disk.flush(plainIo)).toThrowError(/flush/)
    const shown = seeds.map((seed) => contentOf(disk.crash(seed))[0])
    expect(new Set(shown)).toEqual(new Set([0, 1]))
  })
})
