/** The filter by itself: what it copies, what it passes on, and what it asks of its children. */
import { expect, it } from 'vitest'
import { KiB, MiB } from '../../src/bytes/range.ts'
import { drivers } from '../../src/drivers.ts'
import { Graph } from '../../src/graph/graph.ts'
import { attach } from '../support/image-chain.ts'

async function setUp() {
  const graph = new Graph({ drivers })
  const open = (name: string) => graph.open({ driver: 'memory', 'node-name': name, size: MiB })
  const [source, target] = [await open('source'), await open('target')]
  const guest = attach(graph, source, ['consistentRead', 'write'])
  await guest.write(0, new Uint8Array(MiB).fill(1))
  const filter = await graph.open(
    { driver: 'copy-before-write', 'node-name': 'cbw', file: 'source', target: 'target' },
    { discard: 'unmap' },
  )
  return { graph, source, target, guest, filter }
}

const written = (node: { statistics: { write: { bytes: number } } }) => node.statistics.write.bytes

it('stands beside the graph and asks nothing of the source until it is put in', async () => {
  const { graph, source, target, guest, filter } = await setUp()
  await using _ = graph
  const uses = (name: string) => [...(filter.children.get(name)?.uses ?? [])]
  expect([uses('file'), uses('target')]).toEqual([[], ['write']])
  // Somebody else may write to the target, before and while it is used.
  const other = attach(graph, target, ['write'])
  await other.write(0, new Uint8Array(512))
  await graph.insertFilters([{ filter, node: source }])
  expect(guest.node).toBe(filter)
  expect(uses('file')).toContain('consistentRead')
  expect(uses('target')).toContain('write')
  await other.write(0, new Uint8Array(512))
  // But nobody to the source behind its back.
  expect(() => attach(graph, source, ['write'])).toThrow(/Permission conflict/)
})

it('copies whole clusters before writes, zeroes and discards; nothing for what is unchanged', async () => {
  const { graph, source, target, guest, filter } = await setUp()
  await using _ = graph
  await graph.insertFilters([{ filter, node: source }])
  await guest.write(10 * KiB, new Uint8Array(512).fill(1), { unchanged: true })
  expect(written(target)).toBe(0)
  const before = source.statistics.flush.operations
  await guest.flush()
  await guest.read(0, new Uint8Array(MiB))
  expect([written(target), source.statistics.flush.operations]).toEqual([0, before + 1])
  await guest.write(10 * KiB, new Uint8Array(512).fill(2))
  expect(written(target)).toBe(64 * KiB)
  await guest.writeZeroes(200 * KiB, 512)
  await guest.discard(256 * KiB, 64 * KiB)
  expect(written(target)).toBe(3 * 64 * KiB)
  await guest.write(0, new Uint8Array(64 * KiB).fill(3))
  expect(written(target)).toBe(3 * 64 * KiB)
  const kept = new Uint8Array(64 * KiB)
  for (const offset of [0, 192 * KiB, 256 * KiB]) {
    await attach(graph, target, ['consistentRead']).read(offset, kept)
    expect(kept.every((byte) => byte === 1)).toBe(true)
  }
})

it('leaves everything as it was when it cannot be put in, and when it is taken out', async () => {
  const { graph, source, target, guest, filter } = await setUp()
  await using _ = graph
  const wants = { description: 'a writer that stays', uses: ['write'], stays: true } as const
  const alone = graph.attach(source, wants)
  await expect(graph.insertFilters([{ filter, node: source }])).rejects.toMatchObject({
    code: 'PERMISSION',
  })
  expect(guest.node).toBe(source)
  await guest.write(0, new Uint8Array(512).fill(4))
  expect(written(target)).toBe(0)
  await alone[Symbol.asyncDispose]()
  await graph.insertFilters([{ filter, node: source }])
  await guest.write(0, new Uint8Array(512).fill(5))
  expect(written(target)).toBe(64 * KiB)
  await graph.dropFilter(filter)
  await guest.write(128 * KiB, new Uint8Array(512).fill(6))
  expect([guest.node, written(target)]).toEqual([source, 64 * KiB])
})
