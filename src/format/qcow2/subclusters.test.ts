import { describe, expect, it } from 'vitest'
import { incompatible } from './header.ts'
import { kind, L2Layout, setCopied, setEntry } from './l2-table.ts'
import { hostOffset } from './offsets.ts'
import { highestBit, lowestBit, maskOf, sameStatus, setSubclusters } from './subclusters.ts'

describe('subclusters', () => {
  it('are bits, of which the lowest is the first', () => {
    expect(maskOf(0, 32)).toBe(0xffffffff)
    expect(maskOf(31, 32)).toBe(0x80000000)
    expect(maskOf(4, 8)).toBe(0xf0)
    expect(maskOf(8, 8)).toBe(0)
    expect(maskOf(0, 40)).toBe(0xffffffff)
    expect([lowestBit(0x80000000), lowestBit(0x30), lowestBit(0)]).toEqual([31, 4, 32])
    expect([highestBit(0x80000000), highestBit(0x30), highestBit(0)]).toEqual([32, 6, 0])
  })

  it('go on alike until either bit differs', () => {
    expect(sameStatus(0, 0, 0)).toBe(32)
    expect(sameStatus(0xffffffff, 0, 5)).toBe(27)
    expect(sameStatus(0x0f, 0xf0, 0)).toBe(4)
    expect(sameStatus(0x0f, 0xf0, 6)).toBe(2)
    expect(sameStatus(0x80000000, 0, 30)).toBe(1)
    expect(sameStatus(0x80000000, 0, 31)).toBe(1)
  })
})

describe('extended entries', () => {
  const layout = new L2Layout({
    version: 3,
    clusterBits: 16,
    incompatibleFeatures: incompatible.extendedL2,
  })
  const faultOf = (write: (view: DataView) => void) => {
    const view = new DataView(new ArrayBuffer(64))
    write(view)
    return layout.faultAt(view, 1)
  }
  const data = (view: DataView) => setCopied(view, layout.wordOf(1), hostOffset(0x50000))
  const compressed = (view: DataView) => setEntry(view, layout.wordOf(1), 0x40000000, 0x50000)

  it('describe half as many clusters', () => {
    expect([layout.entries, layout.subclusterSize]).toEqual([4096, 2048])
    expect(layout.l2Index(layout.coverage - 1)).toBe(4095)
  })

  it('are refused where the two words contradict each other', () => {
    expect(faultOf(() => {})).toBeUndefined()
    expect(faultOf(data)).toBeUndefined()
    expect(faultOf((view) => setSubclusters(view, 1, 0, 0xffffffff))).toBeUndefined()
    expect(faultOf((view) => setSubclusters(view, 1, 2, 0))).toBe(
      'has allocated subclusters but no cluster',
    )
    const both = (view: DataView) => {
      data(view)
      setSubclusters(view, 1, 0x80000001, 0x80000000)
    }
    expect(faultOf(both)).toBe('has subclusters that are allocated and zero at once')
    const packed = (view: DataView) => {
      compressed(view)
      setSubclusters(view, 1, 0, 1)
    }
    expect(faultOf(compressed)).toBeUndefined()
    expect(faultOf(packed)).toBe('is compressed and has subclusters')
  })

  it('have no zero flag in the first word', () => {
    // QEMU passes over the bit, and so does whoever reads what it lets pass.
    expect(faultOf((view) => setEntry(view, layout.wordOf(1), 0, 1))).toBeUndefined()
    expect(layout.kindOf(0, 1)).toBe(kind.unallocated)
    expect(layout.kindOf(0, 0x80001)).toBe(kind.data)
  })
})
