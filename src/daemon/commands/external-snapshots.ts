/** External snapshots: `blockdev-snapshot`, and `blockdev-snapshot-sync`, which makes the overlay. */

import { type BlockError, invalid } from '../../errors.ts'
import type { BlockNode } from '../../graph/node.ts'
import { checkNotBacking, putOverlay, takeOverlay } from '../../graph/overlay.ts'
import { action, actionCommand, type Prepared } from '../action.ts'
import { makeImage } from '../new-image.ts'
import { enumeration, object, optional, required, str } from '../schema/types.ts'
import type { StorageDaemon } from '../storage-daemon.ts'

const newImageMode = enumeration('NewImageMode', ['existing', 'absolute-paths'])

const snapshotArgs = object('BlockdevSnapshot', {
  node: required(str, 'The node to preserve.'),
  overlay: required(str, 'The node that takes the writes from then on; without a backing file.'),
})

const snapshot = action<{ readonly node: string; readonly overlay: string }>({
  type: 'blockdev-snapshot',
  args: snapshotArgs,
  nodes: ({ node }) => [node],
  async prepare({ node: name, overlay: overlayName }, { daemon }) {
    const node = nodeToPreserve(daemon, name, name)
    const overlay = daemon.graph.nodes.get(overlayName)
    if (!overlay) throw notFound(overlayName, overlayName)
    return await preparedOverlay(daemon, node, overlay)
  },
})

interface SyncArgs {
  readonly device?: string
  readonly 'node-name'?: string
  readonly 'snapshot-file': string
  readonly 'snapshot-node-name'?: string
  readonly format?: string
  readonly mode?: 'existing' | 'absolute-paths'
}

const syncArgs = object('BlockdevSnapshotSync', {
  device: optional(str, 'Refused: there are no device names.'),
  'node-name': optional(str, 'The node to preserve.'),
  'snapshot-file': required(str, 'File name of the overlay.'),
  'snapshot-node-name': optional(str, "Name of the overlay's node; required."),
  format: optional(str, 'Format of the overlay; `qcow2` unless given.'),
  mode: optional(newImageMode, '`existing`: the overlay is there; otherwise it is made.'),
})

const snapshotSync = action<SyncArgs>({
  type: 'blockdev-snapshot-sync',
  args: syncArgs,
  nodes: (args) => [args['node-name'] ?? ''],
  async prepare(args, { daemon }) {
    const { device = '', 'node-name': name = '', 'snapshot-node-name': overlayName } = args
    const node = nodeToPreserve(daemon, device, name)
    if (overlayName === undefined) throw invalid('New overlay node-name missing')
    if (daemon.graph.nodes.has(overlayName)) {
      throw invalid('New overlay node-name already in use')
    }
    const overlay = await openOverlay(daemon, node, args)
    try {
      const { commit, abort } = await preparedOverlay(daemon, node, overlay)
      return {
        commit: async () => {
          await commit?.()
          // It belongs to the users of the node; without any it goes.
          await letGo(daemon, overlay)
        },
        abort: async () => {
          await abort?.()
          await letGo(daemon, overlay)
        },
      }
    } catch (error) {
      await letGo(daemon, overlay)
      throw error
    }
  },
})

export const externalSnapshotActions = [snapshot, snapshotSync]

export const externalSnapshotCommands = [
  actionCommand(snapshot, {
    topic: 'Block nodes',
    doc:
      'Preserves a node: an overlay that is open already, on top of it, takes the writes from ' +
      'then on, and everybody who used the node uses the overlay.',
  }),
  actionCommand(snapshotSync, {
    topic: 'Block nodes',
    doc: 'Preserves a node under an overlay that the command makes, or opens, itself.',
  }),
]

function nodeToPreserve(daemon: StorageDaemon, device: string, name: string): BlockNode {
  const node = daemon.graph.nodes.get(name)
  if (!node) throw notFound(device, name)
  node.blockers.check('external-snapshot')
  checkNotBacking(node)
  return node
}

async function preparedOverlay(
  { graph }: StorageDaemon,
  node: BlockNode,
  overlay: BlockNode,
): Promise<Prepared> {
  await putOverlay(graph, node, overlay)
  return {
    // Nobody writes to it any more. Where it has to stay writable, it does.
    commit: async () => {
      if (canReopen(graph, node)) await graph.setReadOnly(node, true).catch(() => {})
    },
    abort: () => takeOverlay(graph, node, overlay),
  }
}

function canReopen({ drivers }: StorageDaemon['graph'], node: BlockNode): boolean {
  return drivers.find(({ name }) => name === node.driver)?.changeable !== undefined
}

async function openOverlay(
  { graph }: StorageDaemon,
  node: BlockNode,
  args: SyncArgs,
): Promise<BlockNode> {
  const { 'snapshot-file': filename, format = 'qcow2', mode = 'absolute-paths' } = args
  if (mode === 'absolute-paths') {
    await makeImage(graph, { filename, format, size: node.size, base: node })
  }
  const name = args['snapshot-node-name']
  return await graph.openFile(filename, { 'node-name': name, driver: format, backing: null })
}

async function letGo({ graph }: StorageDaemon, overlay: BlockNode): Promise<void> {
  graph.disown(overlay)
  await graph.changed([], () => ({ nodes: [overlay] }))
}

function notFound(device: string, name: string): BlockError {
  return invalid(`Cannot find device='${device}' nor node-name='${name}'`)
}
