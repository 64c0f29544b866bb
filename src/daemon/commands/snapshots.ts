/** Internal snapshots: taking one, alone or in a transaction, and deleting one. */
import type { SnapshotFacts } from '../../block/abilities.ts'
import { plainIo } from '../../block/layer.ts'
import { snapshotInfo } from '../../block/snapshot-info.ts'
import { BlockError, invalid, strerror } from '../../errors.ts'
import type { BlockNode } from '../../graph/node.ts'
import { snapshotNode } from '../../graph/snapshot-node.ts'
import { action, actionCommand } from '../action.ts'
import { command } from '../command.ts'
import { checkRoot } from '../job-arguments.ts'
import { snapshotInfoType } from '../schema/snapshot-types.ts'
import { object, optional, required, str } from '../schema/types.ts'
import type { StorageDaemon } from '../storage-daemon.ts'

const internalArgs = object('BlockdevSnapshotInternal', {
  device: required(str, 'The node.'),
  name: required(str, 'Name of the snapshot; no other may have it.'),
})

const takeInternal = action<{ readonly device: string; readonly name: string }>({
  type: 'blockdev-snapshot-internal-sync',
  args: internalArgs,
  nodes: ({ device }) => [device],
  async prepare({ device, name }, { daemon }) {
    const node = nodeOf(daemon, device)
    if (node.flags.readOnly) throw invalid(`Device '${device}' is read only`)
    const { snapshots } = snapshotNode(node).layer
    if (!snapshots) {
      const what = `Block format '${node.driver}' used by device '${device}'`
      throw invalid(`${what} does not support internal snapshots`)
    }
    if (name === '') throw invalid('Name is empty')
    if ((await snapshotsOf(node))?.some((each) => each.name === name)) {
      throw invalid(`Snapshot with name '${name}' already exists on device '${device}'`)
    }
    // A storage daemon has no machine: its clock is the wall's, as the date is.
    const now = Date.now()
    const date = { seconds: Math.floor(now / 1000), nanoseconds: (now % 1000) * 1_000_000 }
    const { id } = await snapshots.create({ name, date, vmClock: date }, plainIo)
    return { abort: () => snapshots.delete(id, plainIo) }
  },
})

/** For `transaction`. */
export const internalSnapshotActions = [takeInternal]

export const internalSnapshotCommands = [
  actionCommand(takeInternal, {
    topic: 'Block nodes',
    doc:
      'Takes a snapshot inside the image of a node. Its disk can be brought back with ' +
      '`varve img snapshot -a`, or read with `varve img convert -l`.',
  }),
  command({
    name: 'blockdev-snapshot-delete-internal-sync',
    topic: 'Block nodes',
    doc: 'Deletes a snapshot inside an image; where both are given, `id` and `name` have to match.',
    args: object('BlockdevSnapshotDeleteInternalSyncArg', {
      device: required(str, 'The node.'),
      id: optional(str, 'Id of the snapshot.'),
      name: optional(str, 'Its name.'),
    }),
    returns: snapshotInfoType,
    returnsDoc: 'The snapshot that is gone.',
    async run({ device, id, name }, { daemon }) {
      const node = nodeOf(daemon, device)
      if (id === undefined && name === undefined) throw invalid('Name or id must be provided')
      const { snapshots } = snapshotNode(node).layer
      const found = await findIn(node, device, id, name)
      if (node.readOnly) throw invalid(`Device '${device}' is read only`)
      await daemon.graph.drained([node], () => snapshots?.delete(found.id, plainIo))
      return snapshotInfo(found)
    },
  }),
]

function nodeOf(daemon: StorageDaemon, name: string): BlockNode {
  const node = daemon.graph.nodes.get(name)
  if (node) return checkRoot(node)
  throw invalid(`Cannot find device='${name}' nor node-name='${name}'`)
}

async function snapshotsOf(node: BlockNode): Promise<readonly SnapshotFacts[] | undefined> {
  return await snapshotNode(node).layer.image?.snapshots?.()
}

async function findIn(
  node: BlockNode,
  device: string,
  id: string | undefined,
  name: string | undefined,
): Promise<SnapshotFacts> {
  const all = await snapshotsOf(node)
  if (!all) {
    throw new BlockError('UNSUPPORTED', `Failed to get a snapshot list: ${strerror('ENOTSUP')}`, {
      node: node.name,
      errno: 'ENOTSUP',
    })
  }
  const found = all.find(
    (each) => (id === undefined || each.id === id) && (name === undefined || each.name === name),
  )
  if (found) return found
  throw invalid(
    `Snapshot with id '${id ?? 'null'}' and name '${name ?? 'null'}' does not exist on device '${device}'`,
  )
}
