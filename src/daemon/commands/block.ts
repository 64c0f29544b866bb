/** Block nodes: adding, removing, resizing them, and telling about them. */

import { BlockError, invalid } from '../../errors.ts'
import { skipFilters } from '../../graph/chain.ts'
import type { Edge } from '../../graph/edge.ts'
import type { BlockNode } from '../../graph/node.ts'
import { checkNotBacking } from '../../graph/overlay.ts'
import { jobOf } from '../../job/ground.ts'
import { command } from '../command.ts'
import { namedNodeInfo, nodeInfo, oldestFirst } from '../node-info.ts'
import { nodeStatistics, statisticsType } from '../node-statistics.ts'
import { blockdevOptions } from '../schema/blockdev-options.ts'
import { any, bool, empty, int, list, object, optional, required, str } from '../schema/types.ts'
import type { StorageDaemon } from '../storage-daemon.ts'

/** As `--blockdev` does, too. */
export async function addNode(
  daemon: StorageDaemon,
  options: Parameters<StorageDaemon['graph']['open']>[0],
): Promise<void> {
  if (options['node-name'] === undefined) {
    throw invalid("'node-name' must be specified for the root node")
  }
  await daemon.graph.open(options, {}, daemon.signal)
}

export const blockCommands = [
  command({
    name: 'blockdev-add',
    topic: 'Block nodes',
    doc:
      'Opens a node that stays until `blockdev-del`. Children are given by name, or by options ' +
      'of their own and then live as long as their parent.',
    args: blockdevOptions,
    run: (options, { daemon }) => addNode(daemon, options),
  }),
  command({
    name: 'blockdev-del',
    topic: 'Block nodes',
    doc: 'Closes a node that `blockdev-add` has opened. Refused while it is used.',
    args: object('BlockdevDelArg', { 'node-name': required(str, 'The node.') }),
    async run({ 'node-name': name }, { daemon }) {
      const node = daemon.graph.nodes.get(name)
      if (!node) throw invalid(`Failed to find node with node-name='${name}'`)
      // Jobs that hold a node are no devices in QEMU.
      const isDevice = (edge: Edge) => edge.role === 'root' && jobOf(edge) === undefined
      if ([...node.parents].some(isDevice)) {
        throw new BlockError('BUSY', `Node ${name} is in use`, { node: name, errno: 'EBUSY' })
      }
      // The latest reason is told first: a filter was blocked before it was put in place.
      if (node.isFilter) checkNotBacking(node)
      node.blockers.check('remove')
      checkNotBacking(node)
      if (daemon.graph.isOwned(node) && node.parents.size > 0) {
        throw new BlockError('BUSY', `Block device ${name} is in use`, { node: name })
      }
      await daemon.graph.remove(name)
    },
  }),
  command({
    name: 'blockdev-reopen',
    topic: 'Block nodes',
    doc:
      'Changes the options of nodes, all of them or none. Each entry holds the complete options ' +
      'of a node; what it leaves out becomes the default. Children are named, or described as ' +
      'they were when the node was opened.',
    args: object('BlockdevReopenArg', {
      options: required(list(blockdevOptions), 'The nodes and their options.'),
    }),
    run: ({ options }, { daemon }) => daemon.graph.reopen(options),
  }),
  command({
    name: 'blockdev-set-active',
    topic: 'Block nodes',
    addition: true,
    doc:
      "QEMU 10's command. Not active, a node has written everything out and holds no lock on its " +
      'image, for another process to use; its users are refused. Active again, it shows what the ' +
      'other process has left, and fails while that still uses the image.',
    args: object('BlockdevSetActiveArg', {
      'node-name': optional(str, 'The node, with what only it stands on; all nodes unless given.'),
      active: required(bool, 'Whether the image is ours to use.'),
    }),
    async run({ 'node-name': name, active }, { daemon: { graph } }) {
      const node = name === undefined ? undefined : graph.nodes.get(name)
      if (name !== undefined && !node) {
        throw invalid(`Failed to find node with node-name='${name}'`)
      }
      const nodes = node ? [node] : graph.nodes.values()
      await (active ? graph.activate(nodes) : graph.inactivate(nodes))
    },
  }),
  command({
    name: 'block_resize',
    topic: 'Block nodes',
    doc: 'Changes the size of a disk. Refused while an export shows the old one.',
    args: object('BlockResizeArg', {
      device: optional(str, 'Refused: there are no device names.'),
      'node-name': optional(str, 'The node.'),
      size: required(int, 'Bytes.'),
    }),
    async run({ device, 'node-name': name = '', size }, { daemon }) {
      const node = device === undefined ? daemon.graph.nodes.get(name) : undefined
      if (!node) throw invalid(`Cannot find device='${device ?? ''}' nor node-name='${name}'`)
      if (!Number.isSafeInteger(size) || size < 0) {
        throw invalid("Parameter 'size' expects a >0 size")
      }
      checkResizable(node)
      const edge = daemon.graph.attach(node, {
        description: 'an unnamed block device',
        uses: ['resize'],
      })
      try {
        await checkResize(node)
        await edge.truncate(size)
      } finally {
        await edge[Symbol.asyncDispose]()
      }
    },
  }),
  command({
    name: 'query-named-block-nodes',
    topic: 'Block nodes',
    doc: 'Describes all nodes, the newest first.',
    args: object('QueryNamedBlockNodesArg', {
      flat: optional(bool, 'Leave out `backing-image`, which repeats what other entries say.'),
    }),
    returns: list(namedNodeInfo),
    concurrent: true,
    run: async ({ flat = false }, { daemon }) => {
      const nodes = oldestFirst(daemon.graph.nodes).reverse()
      return await Promise.all(nodes.map((node) => nodeInfo(node, { flat })))
    },
  }),
  command({
    name: 'query-block',
    topic: 'Block nodes',
    doc: 'Lists devices of virtual machines. A storage daemon has none.',
    args: empty,
    returns: list(any),
    returnsDoc: 'The empty list.',
    concurrent: true,
    run: () => [],
  }),
  command({
    name: 'query-blockstats',
    topic: 'Block nodes',
    doc: 'Counts the requests of nodes.',
    args: object('QueryBlockstatsArg', {
      'query-nodes': optional(
        bool,
        'Of all nodes; otherwise of devices, of which there are none here.',
      ),
    }),
    returns: list(statisticsType),
    concurrent: true,
    run: ({ 'query-nodes': nodes = false }, { daemon }) =>
      nodes ? oldestFirst(daemon.graph.nodes).map(nodeStatistics) : [],
  }),
]

/** What only who does it finds out. */
async function checkResize(node: BlockNode): Promise<void> {
  const { medium, capabilities, sizeIsGiven } = node.layer
  if (medium && !(await medium.isInserted())) throw invalid('No medium inserted')
  if (node.readOnly) {
    throw new BlockError('READ_ONLY', 'Image is read-only', { node: node.name, errno: 'EACCES' })
  }
  if (isWindow(node)) throw invalid('Cannot resize fixed-size raw disks')
  if (!capabilities.resize && !sizeIsGiven) {
    throw new BlockError('UNSUPPORTED', 'Image format driver does not support resize', {
      node: node.name,
      errno: 'ENOTSUP',
    })
  }
}

/** A part of a file, as the raw format shows it. */
function isWindow(node: BlockNode): boolean {
  const { driver, options } = skipFilters(node)
  return driver === 'raw' && options.size !== undefined
}

function checkResizable(node: BlockNode): void {
  try {
    node.blockers.check('resize')
    checkNotBacking(node)
  } catch (cause) {
    // QEMU names the device, of which there is none.
    throw new BlockError('BUSY', "Device '(null)' is in use", { node: node.name, cause })
  }
}
