/** Every filter must be a layer like any other, and change nothing of what a guest reads. */
import type { NodeOptions } from '../../src/block/driver.ts'
import { ThrottleGroupTable } from '../../src/block/throttle-options.ts'
import { drivers } from '../../src/drivers.ts'
import { Graph } from '../../src/graph/graph.ts'
import { MemoryLayer } from '../../src/protocol/memory.ts'
import { type Subject, testLayer } from './layer.ts'

/** Options of a filter whose storage is the node `storage`. */
const filters: Readonly<Record<string, NodeOptions>> = {
  'copy-on-read': { driver: 'copy-on-read', file: 'storage' },
  preallocate: { driver: 'preallocate', file: 'storage', 'prealloc-size': '1M' },
  blkverify: { driver: 'blkverify', raw: 'storage', test: { driver: 'memory', size: 1315328 } },
  blklogwrites: { driver: 'blklogwrites', file: 'storage', log: { driver: 'memory', size: 0 } },
  quorum: {
    driver: 'quorum',
    children: ['storage', { driver: 'memory', size: 1315328 }, { driver: 'memory', size: 1315328 }],
    'vote-threshold': 2,
  },
  throttle: { driver: 'throttle', file: 'storage', 'throttle-group': 'fast' },
  blkdebug: { driver: 'blkdebug', image: 'storage' },
  'blkdebug with limits of its own': {
    driver: 'blkdebug',
    image: 'storage',
    align: 1024,
    'max-transfer': 64 * 1024,
    'opt-write-zero': 4096,
    'max-write-zero': 32 * 1024,
    'opt-discard': 8192,
    'max-discard': 64 * 1024,
  },
}

const groups = new ThrottleGroupTable()
groups.add({ id: 'fast', limits: { 'bps-total': 1e12, 'iops-total': 1e6 } })

for (const [name, options] of Object.entries(filters)) {
  testLayer(name, async (size) => await openFilter(options, size))
}

async function openFilter(options: NodeOptions, size: number): Promise<Subject> {
  const graph = new Graph({ drivers, throttleGroup: (id) => groups.get(id) })
  const memory = new MemoryLayer({ size })
  await graph.add('memory', { 'node-name': 'storage', discard: 'unmap' }, async () => memory)
  const { layer } = await graph.open({ ...options, discard: 'unmap', 'node-name': 'filter' })
  const edge = graph.attach(graph.node('filter'), {
    description: 'the test',
    uses: ['consistentRead', 'write', 'resize'],
  })
  return {
    layer,
    [Symbol.asyncDispose]: async () => {
      await edge[Symbol.asyncDispose]()
      await graph[Symbol.asyncDispose]()
    },
  }
}
