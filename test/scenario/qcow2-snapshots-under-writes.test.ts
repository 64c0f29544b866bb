/** Writes that meet at a table which a snapshot shares: it is copied once, whenever each of them comes. */
import { expect, it } from 'vitest'
import { plainIo } from '../../src/block/layer.ts'
import { drivers } from '../../src/drivers.ts'
import { Graph } from '../../src/graph/graph.ts'
import { Faults } from '../support/faults.ts'
import { attach, memoryImage } from '../support/image-chain.ts'

const size = 1024 * 1024
const cluster = 4096
/** More than a request to that storage takes. */
const turns = 120

it('loses none of them, and no clusters', async () => {
  await using graph = new Graph({ drivers })
  // Storage that takes a turn or two for each request.
  const node = await memoryImage(graph, 'disk', {
    size,
    clusterSize: cluster,
    faults: new Faults(),
  })
  const guest = attach(graph, node, ['consistentRead', 'write'])
  await guest.write(0, new Uint8Array(size).fill(255))
  for (let later = 0; later < turns; later++) {
    await node.layer.snapshots?.create({ name: `s${later}` }, plainIo)
    const [first, second, third] = [1, 2, 3].map((part) => part * 16 * cluster)
    const writes = [guest.write(first, new Uint8Array(cluster).fill(later))]
    for (let turn = later; turn > 0; turn--) await Promise.resolve()
    writes.push(guest.write(second, new Uint8Array(cluster).fill(later)))
    for (let turn = later; turn > 0; turn--) await Promise.resolve()
    writes.push(guest.write(third, new Uint8Array(cluster).fill(later)))
    await Promise.all(writes)
    for (const at of [first, second, third]) {
      const found = new Uint8Array(cluster)
      await guest.read(at, found)
      expect(found, `${later} turns later, at ${at}`).toEqual(new Uint8Array(cluster).fill(later))
    }
    await node.layer.snapshots?.delete(`s${later}`, plainIo)
  }
  expect(await node.layer.check?.run({ ...plainIo, repair: 'none' })).toMatchObject({
    leaks: 0,
    corruptions: 0,
  })
})
