/** Block exports: `block-export-*`, `query-block-exports`, `--export`. */
import { invalid } from '../../errors.ts'
import { command } from '../command.ts'
import type { ExportKind } from '../exports.ts'
import { bitmapOrName } from '../schema/bitmap-types.ts'
import { socketAddress } from '../schema/socket-address.ts'
import {
  bool,
  empty,
  enumeration,
  list,
  object,
  optional,
  required,
  size,
  str,
  uint16,
  union,
  type Value,
} from '../schema/types.ts'
import type { StorageDaemon } from '../storage-daemon.ts'
import { vduseExport } from '../vduse-exports.ts'
import { findNode } from './bitmaps.ts'

const removeMode = enumeration('BlockExportRemoveMode', ['safe', 'hard'])
const exportType = enumeration('BlockExportType', ['nbd', 'vhost-user-blk', 'fuse', 'vduse-blk'])
export const mode = optional(
  removeMode,
  '`safe` (unless given) fails while a client uses the export; `hard` disconnects them, after ' +
    'their requests under way are answered, and does not wait long for that.',
)

export const nbdExportMembers = {
  name: optional(str, 'Name that clients ask for; the node name unless given.'),
  description: optional(str, 'A text for people, at most 4096 bytes.'),
  bitmaps: optional(
    list(bitmapOrName),
    'Dirty bitmaps to show, as contexts `qemu:dirty-bitmap:NAME`: of the node or one below it by name.',
  ),
  'allocation-depth': optional(bool, 'Offer the context `qemu:allocation-depth`.'),
}

const blockSize = optional(
  size,
  'Bytes of the smallest request that a guest makes: 512 (unless given) or a larger power of two, up to 2 MiB.',
)
const queueCount = optional(uint16, 'How many queues a guest may have; 1 unless given.')

const vhostUserExportMembers = {
  addr: required(
    socketAddress,
    'Where to listen: a path (a socket that is there gives way), or a descriptor that was inherited.',
  ),
  'logical-block-size': blockSize,
  'num-queues': queueCount,
}

/** There is nothing behind them: see docs/vhost-user.md. */
const vduseExportMembers = {
  name: required(str, 'Name of the device.'),
  'num-queues': queueCount,
  'queue-size': optional(
    uint16,
    'Requests of a queue: a power of two, at most 1024; 256 unless given.',
  ),
  'logical-block-size': blockSize,
  serial: optional(str, 'Serial number of the device.'),
}

const fuseExportMembers = {
  mountpoint: required(
    str,
    'A regular file. While the export is there it shows the disk, with the name and in the place of that file.',
  ),
  growable: optional(bool, 'Writing behind the end makes the disk larger.'),
  'allow-other': optional(
    enumeration('FuseExportAllowOther', ['off', 'on', 'auto']),
    'Whether other users may be given rights to the file, by `chmod` and `chown`; `auto` (unless given) if the ' +
      'system permits it.',
  ),
}

/** The options of `block-export-add` and of `--export`. */
export const blockExportOptions = union(
  'BlockExportOptions',
  {
    type: required(exportType, 'How to export.'),
    id: required(str, 'Name of the export, for `block-export-del`.'),
    'fixed-iothread': optional(bool, 'Of no effect: there is one event loop.'),
    iothread: optional(str, 'Id of an `iothread` object; of no effect beyond that it must exist.'),
    'node-name': required(str, 'The node to export.'),
    writable: optional(bool, 'Whether clients may write.'),
    writethrough: optional(bool, 'Put every write on stable storage before it is acknowledged.'),
  },
  'type',
  () => ({
    nbd: object('BlockExportOptionsNbd', nbdExportMembers),
    'vhost-user-blk': object('BlockExportOptionsVhostUserBlk', vhostUserExportMembers),
    fuse: object('BlockExportOptionsFuse', fuseExportMembers),
    'vduse-blk': object('BlockExportOptionsVduseBlk', vduseExportMembers),
  }),
)

const blockExportInfo = object('BlockExportInfo', {
  id: required(str, 'Its name.'),
  type: required(exportType, 'How it is exported.'),
  'node-name': required(str, 'The node.'),
  'shutting-down': required(bool, 'Whether it is being ended.'),
})

type Options = Value<typeof blockExportOptions>

/** `inherited`: descriptors that are named are those that the process was started with. */
export async function addExport(
  daemon: StorageDaemon,
  options: Options,
  { inherited = false } = {},
): Promise<void> {
  const { iothread, id, writable, writethrough } = options
  const isNode = daemon.graph.nodes.has(options['node-name'])
  // Of a node that is not there, that is told.
  if (isNode && iothread !== undefined && daemon.objects.get(iothread)?.type !== 'iothread') {
    throw invalid(`iothread "${iothread}" not found`)
  }
  const common = { id, nodeName: options['node-name'], writable, writethrough }
  await daemon.exports.add(common, kindOf(daemon, options, inherited))
}

function kindOf(daemon: StorageDaemon, options: Options, inherited: boolean): ExportKind {
  const { exports } = daemon
  const { id } = options
  switch (options.type) {
    case 'nbd':
      return nbdExport(daemon, options)
    case 'fuse': {
      const { mountpoint, growable, 'allow-other': allowOther } = options
      return exports.fuse.export({ mountpoint, growable, allowOther })
    }
    case 'vhost-user-blk': {
      const {
        addr: address,
        'num-queues': queues,
        'logical-block-size': logicalBlockSize,
      } = options
      return exports.vhostUser.export({ id, address, queues, logicalBlockSize, inherited })
    }
    case 'vduse-blk': {
      const { 'num-queues': queues, 'logical-block-size': logicalBlockSize } = options
      return vduseExport({ id, queues, logicalBlockSize, queueSize: options['queue-size'] })
    }
  }
}

function nbdExport(daemon: StorageDaemon, options: Extract<Options, { type: 'nbd' }>): ExportKind {
  const { name, description, bitmaps = [] } = options
  return daemon.exports.nbd.export({
    name,
    description,
    allocationDepth: options['allocation-depth'],
    bitmaps: () =>
      bitmaps.map((each) =>
        typeof each === 'string' ? each : { node: findNode(daemon, each.node), name: each.name },
      ),
  })
}

export const exportCommands = [
  command({
    name: 'block-export-add',
    topic: 'NBD and exports',
    doc:
      'Exports a node: over NBD, to virtual machine monitors (vhost-user-blk), or as a regular file (FUSE). There is ' +
      'no vduse-blk: its options are checked, and it is refused.',
    args: blockExportOptions,
    run: (options, { daemon }) => addExport(daemon, options),
  }),
  command({
    name: 'block-export-del',
    topic: 'NBD and exports',
    doc: 'Ends an export. The event `BLOCK_EXPORT_DELETED` tells when its node is free.',
    args: object('BlockExportDelArg', { id: required(str, 'The export.'), mode }),
    run: ({ id, mode = 'safe' }, { daemon }) => daemon.exports.requestRemoval(id, mode),
  }),
  command({
    name: 'query-block-exports',
    topic: 'NBD and exports',
    doc: 'Lists the exports, the newest first.',
    args: empty,
    returns: list(blockExportInfo),
    concurrent: true,
    run: (_, { daemon }) => daemon.exports.list(),
  }),
]
