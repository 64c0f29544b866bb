import { describe, expect, it } from 'vitest'
import { hostOffset } from './offsets.ts'
import { Table } from './table.ts'
import { TableCache } from './table-cache.ts'

function table(changed = new Set<Table>()): Table {
  return new Table(new Uint8Array(8192), hostOffset(65536), changed, false)
}

describe('the table cache', () => {
  it('drops what was not used lately, and neither changed nor pinned tables', () => {
    const cache = new TableCache(3)
    const [old, changed, pinned] = [table(), table(), table()]
    cache.add(1, old)
    cache.add(2, changed)
    cache.add(3, pinned)
    changed.touch(0)
    pinned.pins++
    expect(cache.hasRoom()).toBe(true)
    expect([cache.get(1), cache.get(2), cache.get(3)]).toEqual([undefined, changed, pinned])
  })

  it('says when nothing can be dropped, and goes over its limit rather than lose a table', () => {
    const cache = new TableCache(1)
    const first = table()
    first.touch(0)
    cache.add(1, first)
    expect(cache.hasRoom()).toBe(false)
    cache.add(2, table())
    expect(cache.size).toBe(2)
    expect(cache.hasRoom()).toBe(false)
  })

  it('reads a table once for all who wait for it, and hands it over pinned', async () => {
    const cache = new TableCache(1)
    let reads = 0
    const read = async () => {
      reads++
      return table()
    }
    const [one, two] = await Promise.all([cache.load(7, read), cache.load(7, read)])
    expect(one).toBe(two)
    expect([reads, one.pins]).toEqual([1, 2])
  })

  it('does not keep a failure', async () => {
    const cache = new TableCache(1)
    await expect(cache.load(7, () => Promise.reject(new Error('broken')))).rejects.toThrow('broken')
    await expect(cache.load(7, async () => table())).resolves.toBeInstanceOf(Table)
  })
})

describe('a table', () => {
  it('gives copies of the pages that changed, once', () => {
    const changed = new Set<Table>()
    const own = table(changed)
    own.bytes[5000] = 1
    own.touch(5000)
    expect(changed.has(own)).toBe(true)
    const [piece] = own.takeChanges()
    own.bytes[5000] = 2
    expect([piece.offset, piece.bytes.length, piece.bytes[5000 - 4096]]).toEqual([
      65536 + 4096,
      4096,
      1,
    ])
    expect([own.dirty, changed.size, own.takeChanges().length]).toEqual([false, 0, 0])
    own.giveBack(piece)
    expect(own.dirty).toBe(true)
  })

  it('is written whole when it is new, and never again when it is retired', () => {
    const changed = new Set<Table>()
    const fresh = new Table(new Uint8Array(8192), hostOffset(0), changed, true)
    expect(fresh.takeChanges().map(({ bytes }) => bytes.length)).toEqual([8192])
    fresh.retire()
    fresh.touch(0)
    expect(changed.size).toBe(0)
  })
})
