import type { BlockDriver } from '../../src/block/driver.ts'
import type { Filter } from '../../src/block/filter.ts'
import type { Permission } from '../../src/block/permission.ts'
import { drivers } from '../../src/drivers.ts'
import type { Edge } from '../../src/graph/edge.ts'
import { Graph } from '../../src/graph/graph.ts'
import type { BlockNode } from '../../src/graph/node.ts'

/** Bytes of the disks. */
export const size = 256 * 1024
export const writer: Permission[] = ['consistentRead', 'write', 'resize']

export function newGraph(more: readonly BlockDriver[] = []): Graph {
  return new Graph({ drivers: [...drivers, ...more] })
}

export function memory(graph: Graph, name = 'disk'): Promise<BlockNode> {
  return graph.open({ driver: 'memory', 'node-name': name, size }, { discard: 'unmap' })
}

export function attach(graph: Graph, node: BlockNode, uses: Permission[] = writer): Edge {
  return graph.attach(node, { description: 'a test', uses })
}

/** A filter of a layer that `make` provides, on top of `node`. */
export async function filterOn<L extends Filter>(
  graph: Graph,
  node: BlockNode,
  name: string,
  make: (next: ConstructorParameters<typeof Filter>[0]) => L,
) {
  return await graph.add('test-filter', { 'node-name': name }, async (context) =>
    make(await context.child('filtered', node.name)),
  )
}

/** Everything that can be seen of a graph's shape. */
export function shapeOf(graph: Graph): unknown {
  return [...graph.nodes.values()].map((node) => ({
    name: node.name,
    children: [...node.children].map(([name, edge]) => [name, edge.node.name, [...edge.uses]]),
    parents: [...node.parents]
      .map((edge) => [edge.name, edge.owner?.name, ...edge.shares].join(' '))
      .sort(),
  }))
}
