/** Changes of nodes that are in use: children of quorum nodes, write thresholds. */
import { invalid } from '../../errors.ts'
import type { BlockNode } from '../../graph/node.ts'
import { command } from '../command.ts'
import { object, optional, required, str, uint64 } from '../schema/types.ts'
import type { StorageDaemon } from '../storage-daemon.ts'

export const nodeChangeCommands = [
  command({
    name: 'x-blockdev-change',
    topic: 'Block nodes',
    doc: 'Adds a child to a quorum node, or takes one away.',
    args: object('XBlockdevChangeArg', {
      parent: required(str, 'The quorum node.'),
      child: optional(str, 'Name of the child to take away: `children.0`, …'),
      node: optional(str, 'The node to add.'),
    }),
    features: ['unstable'],
    async run({ parent: name, child, node }, { daemon }) {
      const parent = nodeOf(daemon, name, `Cannot find device='${name}' nor node-name='${name}'`)
      if (child === undefined && node === undefined) {
        throw invalid('Either child or node must be specified')
      }
      if (child !== undefined && node !== undefined) {
        throw invalid('The parameters child and node are in conflict')
      }
      if (child !== undefined) return await daemon.graph.removeChild(parent, child)
      const added = nodeOf(daemon, node as string, `Node '${node}' not found`)
      await daemon.graph.addChild(parent, added)
    },
  }),
  command({
    name: 'block-set-write-threshold',
    topic: 'Block nodes',
    doc: 'Tells by `BLOCK_WRITE_THRESHOLD`, once, when a write goes beyond an offset.',
    args: object('BlockSetWriteThresholdArg', {
      'node-name': required(str, 'The node.'),
      'write-threshold': required(uint64, 'Bytes from the start of the node; 0 for none.'),
    }),
    run({ 'node-name': name, 'write-threshold': threshold }, { daemon }) {
      nodeOf(daemon, name, `Device '${name}' not found`).writeThreshold =
        threshold < 0 ? Number.MAX_VALUE : Number(threshold)
    },
  }),
]

function nodeOf(daemon: StorageDaemon, name: string, complaint: string): BlockNode {
  const node = daemon.graph.nodes.get(name)
  if (node) return node
  throw invalid(complaint)
}
