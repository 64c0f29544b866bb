/** A reopen that fails, and whose undoing meets failures as well: what can be undone is. */
import { expect, test } from 'vitest'
import { drivers } from '../../src/drivers.ts'
import { addBitmap } from '../../src/graph/bitmap-actions.ts'
import { Graph } from '../../src/graph/graph.ts'
import { Faults } from '../support/faults.ts'
import { memoryImage } from '../support/image-chain.ts'

const size = 1024 * 1024

test('the nodes keep their backing files whichever requests fail, and whoever asked learns of the first', async () => {
  let refused = 0
  for (let failAt = 0; failAt < 24; failAt++) {
    const faults = new Faults()
    await using graph = new Graph({ drivers })
    const base = await memoryImage(graph, 'base', { size })
    const other = await memoryImage(graph, 'other', { size })
    const top = await memoryImage(graph, 'top', { size, backing: base })
    for (const name of ['a', 'b']) {
      const node = await memoryImage(graph, name, { size, faults })
      addBitmap(node, { name: 'm', persistent: true }).commit()
    }
    const readOnly = ['a', 'b'].map((name) => ({
      ...{ driver: 'qcow2', 'node-name': name, file: `${name}-file`, 'read-only': true },
    }))
    const moved = { driver: 'qcow2', 'node-name': 'top', file: 'top-file', backing: 'other' }
    faults.arm(failAt, 'IO', 8)
    const failure = await graph.reopen([moved, ...readOnly]).catch((error) => error)
    if (failure) refused++
    if (failure) expect(String(failure), `from request ${failAt}`).toMatch(/injected/)
    expect(top.children.get('backing')?.node, `from request ${failAt}`).toBe(failure ? base : other)
    faults.disarm()
  }
  expect(refused).toBeGreaterThan(3)
})
