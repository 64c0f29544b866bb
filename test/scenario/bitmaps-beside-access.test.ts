/** A bitmap is removed in the moment in which a job that ends makes its image read-only, or writable. */
import { describe, expect, it } from 'vitest'
import { plainIo } from '../../src/block/layer.ts'
import { drivers } from '../../src/drivers.ts'
import { addBitmap, removeBitmap } from '../../src/graph/bitmap-actions.ts'
import { Graph } from '../../src/graph/graph.ts'
import type { BlockNode } from '../../src/graph/node.ts'
import { Faults } from '../support/faults.ts'
import { memoryImage } from '../support/image-chain.ts'

const size = 1024 * 1024

/** An image with stored bitmaps, and storage that takes a while for each request. */
async function stored(graph: Graph): Promise<BlockNode> {
  const node = await memoryImage(graph, 'disk', { size, faults: new Faults() })
  for (const name of ['a', 'b', 'c']) addBitmap(node, { name, persistent: true }).commit()
  await graph.setReadOnly(node, true)
  await graph.setReadOnly(node, false)
  return node
}

const remove = async (node: BlockNode) => (await removeBitmap(node, 'b')).commit()

describe('a bitmap removed beside', () => {
  it.each([
    ['the switch', true],
    ['the removal', false],
  ])('%s, begun first', async (_, switchFirst) => {
    for (let turns = 0; turns < 30; turns++) {
      await using graph = new Graph({ drivers })
      const node = await stored(graph)
      const works = [() => graph.setReadOnly(node, true), () => remove(node)]
      const begun = (switchFirst ? works : works.toReversed()).map(async (work, index) => {
        for (let wait = index === 1 ? turns : 0; wait > 0; wait--) await Promise.resolve()
        await work()
      })
      // Whoever comes too late to change a read-only image is refused.
      await Promise.allSettled(begun)
      const names = [...node.bitmaps].map(({ name }) => name)
      expect(node.layer.bitmaps?.list().map(({ name }) => name)).toEqual(names)
      expect(await node.layer.check?.run({ ...plainIo, repair: 'none' })).toMatchObject({
        leaks: 0,
        corruptions: 0,
      })
    }
  })
})
