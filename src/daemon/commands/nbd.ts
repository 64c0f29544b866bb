/** The NBD server and block exports. */
import { BlockError } from '../../errors.ts'
import { command } from '../command.ts'
import { bitmapOrName } from '../schema/bitmap-types.ts'
import { flatAddress, type SocketAddress, socketAddressLegacy } from '../schema/socket-address.ts'
import {
  bool,
  empty,
  enumeration,
  list,
  object,
  optional,
  required,
  str,
  uint32,
  union,
  type Value,
} from '../schema/types.ts'
import type { StorageDaemon } from '../storage-daemon.ts'
import { findNode } from './bitmaps.ts'

const removeMode = enumeration('BlockExportRemoveMode', ['safe', 'hard'])
const exportType = enumeration('BlockExportType', ['nbd'])
const mode = optional(
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
  () => ({ nbd: object('BlockExportOptionsNbd', nbdExportMembers) }),
)

const blockExportInfo = object('BlockExportInfo', {
  id: required(str, 'Its name.'),
  type: required(exportType, 'How it is exported.'),
  'node-name': required(str, 'The node.'),
  'shutting-down': required(bool, 'Whether it is being ended.'),
})

export async function addExport(
  daemon: StorageDaemon,
  options: Value<typeof blockExportOptions>,
): Promise<void> {
  const { iothread, bitmaps = [] } = options
  if (iothread !== undefined && daemon.objects.get(iothread)?.type !== 'iothread') {
    throw invalid(`iothread "${iothread}" not found`)
  }
  await daemon.exports.add({
    id: options.id,
    nodeName: options['node-name'],
    name: options.name,
    description: options.description,
    writable: options.writable,
    writethrough: options.writethrough,
    allocationDepth: options['allocation-depth'],
    bitmaps: () =>
      bitmaps.map((each) =>
        typeof each === 'string' ? each : { node: findNode(daemon, each.node), name: each.name },
      ),
  })
}

interface NbdServerArguments {
  readonly 'tls-creds'?: string
  readonly 'tls-authz'?: string
  readonly 'max-connections'?: number
}

/** As `--nbd-server` does, too. */
export async function startNbdServer(
  daemon: StorageDaemon,
  address: SocketAddress,
  options: NbdServerArguments,
): Promise<void> {
  const { objects } = daemon
  if (daemon.exports.server) throw invalid('NBD server already running')
  const { 'tls-creds': credentials, 'tls-authz': authorisation } = options
  await daemon.exports.startServer(address, {
    maxConnections: options['max-connections'],
    tls: credentials === undefined ? undefined : objects.tlsCredentials(credentials, 'server'),
    authorise: authorisation === undefined ? undefined : objects.authorisation(authorisation),
  })
}

export const nbdServerMembers = {
  'tls-creds': optional(str, 'Id of a `tls-creds-…` object: clients must use TLS.'),
  'tls-authz': optional(str, 'Id of an `authz-…` object that says which of them may come in.'),
  'max-connections': optional(uint32, 'Clients at a time; others wait. 0 is any number.'),
}

export const nbdCommands = [
  command({
    name: 'nbd-server-start',
    topic: 'NBD and exports',
    doc:
      'Starts the NBD server. A Unix socket is made for our user alone (mode 0600). There is one ' +
      'server; `block-export-add` adds exports to it.',
    args: object('NbdServerStartArg', {
      addr: required(socketAddressLegacy, 'Where to listen.'),
      ...nbdServerMembers,
    }),
    run: ({ addr, ...options }, { daemon }) => startNbdServer(daemon, flatAddress(addr), options),
  }),
  command({
    name: 'nbd-server-stop',
    topic: 'NBD and exports',
    doc: 'Ends all exports, whatever clients do, and the server.',
    args: empty,
    run: (_, { daemon }) => daemon.exports.stopServer(),
  }),
  command({
    name: 'nbd-server-add',
    topic: 'NBD and exports',
    doc: 'Exports a node; the export has the id of its name. Use `block-export-add`.',
    features: ['deprecated'],
    args: object('NbdServerAddOptions', {
      device: required(str, 'The node.'),
      name: nbdExportMembers.name,
      description: nbdExportMembers.description,
      writable: optional(bool, 'Whether clients may write.'),
      bitmap: optional(str, 'A dirty bitmap to show.'),
    }),
    async run({ device, name = device, description, writable, bitmap }, { daemon }) {
      const node = daemon.graph.nodes.get(device)
      if (!node) throw invalid(`Cannot find device='${device}' nor node-name='${device}'`)
      await addExport(daemon, {
        type: 'nbd',
        id: name,
        'node-name': node.name,
        name,
        description,
        // As in QEMU, what cannot be written is exported read-only without an error.
        writable: writable && !node.flags.readOnly,
        bitmaps: bitmap === undefined ? [] : [bitmap],
      })
    },
  }),
  command({
    name: 'nbd-server-remove',
    topic: 'NBD and exports',
    doc: 'Ends an export. Use `block-export-del`.',
    features: ['deprecated'],
    args: object('NbdServerRemoveArg', { name: required(str, 'Id of the export.'), mode }),
    run: ({ name, mode = 'safe' }, { daemon }) => daemon.exports.requestRemoval(name, mode),
  }),
  command({
    name: 'block-export-add',
    topic: 'NBD and exports',
    doc: 'Exports a node. Types other than `nbd` are not supported.',
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

function invalid(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { errno: 'EINVAL' })
}
