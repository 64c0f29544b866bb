import { describe, expect, it } from 'vitest'
import {
  compressedRun,
  countRun,
  highOf,
  isCopied,
  kind,
  L2Layout,
  l1Fault,
  lowOf,
  offsetOf,
  setCopied,
  setEntry,
  setShared,
  setZeroFlag,
  setZeroPlain,
} from './l2-table.ts'
import { hostOffset } from './offsets.ts'

const layout = new L2Layout({ version: 3, clusterBits: 16 })

function table(): DataView {
  return new DataView(new ArrayBuffer(512))
}

describe('entries of L2 tables', () => {
  it('say what their clusters are', () => {
    const view = table()
    setCopied(view, 1, hostOffset(0x50000))
    setShared(view, 2, hostOffset(0x60000))
    setZeroPlain(view, 3)
    setCopied(view, 4, hostOffset(0x70000))
    setZeroFlag(view, 4)
    setEntry(view, 5, layout.compressedHigh(hostOffset(0x80123), 1000), 0x80123)
    const kinds = [0, 1, 2, 3, 4, 5].map((at) => layout.kindOf(highOf(view, at), lowOf(view, at)))
    expect(kinds).toEqual([
      kind.unallocated,
      kind.data,
      kind.data,
      kind.zeroPlain,
      kind.zeroAllocated,
      kind.compressed,
    ])
    expect(isCopied(highOf(view, 1))).toBe(true)
    expect(isCopied(highOf(view, 2))).toBe(false)
  })

  it('hold offsets beyond 32 bits', () => {
    const view = table()
    setCopied(view, 0, hostOffset(0x12_3456_0000_0000))
    expect(offsetOf(highOf(view, 0), lowOf(view, 0))).toBe(0x12_3456_0000_0000)
  })

  it('hold compressed data of any cluster size, up to the last byte that can be pointed at', () => {
    for (let bits = 9; bits <= 21; bits++) {
      const own = new L2Layout({ version: 3, clusterBits: bits })
      for (const offset of [own.clusterSize + 7, own.compressedEnd - 4096 + 3]) {
        for (const length of [1, 505, 506, 512, own.clusterSize]) {
          const high = own.compressedHigh(hostOffset(offset), length)
          const low = offset % 2 ** 32
          expect(own.kindOf(high, low)).toBe(kind.compressed)
          expect(own.compressedOffset(high, low)).toBe(offset)
          const end = Math.ceil((offset + length) / 512) * 512
          expect(own.compressedLength(high, low)).toBe(end - offset)
          expect(own.faultOf(high, low)).toBeUndefined()
        }
      }
    }
  })

  it('are refused where they contradict the format', () => {
    expect(layout.faultOf(0, 0x5200)).toBe('points to 0x5200, not a multiple of 65536')
    expect(layout.faultOf(0x01000000, 0x50000)).toBe('has reserved bits set')
    // QEMU takes a mark without a cluster for nothing.
    expect(layout.faultOf(0x80000000, 0)).toBeUndefined()
    expect(layout.faultOf(0x00ffffff, 0)).toBe('points to 0xffffff00000000, beyond 2^53')
    // QEMU reads what is compressed and marked as writable in place; a check tells of it.
    expect(layout.faultOf(0xc0000000, 0x80000)).toBeUndefined()
    expect(layout.faultOf(0x40000000, 0)).toBe('points to 0x0, into the header')
    expect(new L2Layout({ version: 2, clusterBits: 16 }).faultOf(0, 1)).toBe(
      'has reserved bits set',
    )
    expect(layout.faultOf(0x80000000, 0x50001)).toBeUndefined()
  })
})

describe('entries of L1 tables', () => {
  it('are refused where they contradict the format', () => {
    expect(l1Fault(0x80000000, 0x40000, 65536)).toBeUndefined()
    expect(l1Fault(0, 0x40200, 65536)).toBe('points to 0x40200, not a multiple of 65536')
    expect(l1Fault(0x40000000, 0x40000, 65536)).toBe('has reserved bits set')
    expect(l1Fault(0, 1, 65536)).toBe('has reserved bits set')
  })
})

describe('runs of entries', () => {
  it('end where clusters are not consecutive or flags differ', () => {
    const view = table()
    for (let at = 0; at < 6; at++) setCopied(view, at, hostOffset(0xfffe0000 + at * 65536))
    setShared(view, 4, hostOffset(0xfffe0000 + 4 * 65536))
    const count = countRun(view, 0, 8, highOf(view, 0), lowOf(view, 0), 65536)
    expect(count).toBe(4)
    expect(countRun(view, 0, 3, highOf(view, 0), lowOf(view, 0), 65536)).toBe(3)
  })

  it('of equal entries have a step of 0', () => {
    const view = table()
    for (let at = 2; at < 5; at++) setZeroPlain(view, at)
    expect(countRun(view, 2, 10, 0, 1, 0)).toBe(3)
    expect(countRun(view, 0, 10, 0, 0, 0)).toBe(2)
  })

  it('of compressed entries may point anywhere', () => {
    const view = table()
    setEntry(view, 0, 0x40000000, 0x90000)
    setEntry(view, 1, 0x40000001, 0x20000)
    expect(compressedRun(view, 0, 8)).toBe(2)
  })
})
