import { setImmediate as nextTurn } from 'node:timers/promises'
import { expect, it, onTestFinished } from 'vitest'
import { Filter } from '../block/filter.ts'
import { type Extent, plainIo } from '../block/layer.ts'
import { drivers } from '../drivers.ts'
import { Graph } from '../graph/graph.ts'

/** Looks places up in its own time, and fails at that. */
class Unknowing extends Filter {
  failure: Error | undefined

  override async extentAt(): Promise<Extent> {
    await nextTurn()
    throw this.failure
  }
}

it('a place that cannot be looked up fails the read, and nothing else', async () => {
  const forgotten: unknown[] = []
  const forget = (error: unknown) => forgotten.push(error)
  process.on('unhandledRejection', forget)
  onTestFinished(() => void process.off('unhandledRejection', forget))
  await using graph = new Graph({ drivers })
  const disk = await graph.open({ driver: 'memory', 'node-name': 'disk', size: 65536 })
  const { node } = await graph.add('test-filter', { 'node-name': 'odd' }, async (context) => {
    const layer = new Unknowing(await context.child('filtered', disk.name))
    layer.failure = new Error('no table')
    return layer
  })
  const copier = await graph.open({ driver: 'copy-on-read', 'node-name': 'top', file: node.name })
  await expect(copier.layer.read(0, new Uint8Array(512), plainIo)).rejects.toThrow('no table')
  for (let turn = 0; turn < 3; turn++) await nextTurn()
  expect(forgotten).toEqual([])
})
