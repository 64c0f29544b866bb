/** The NBD server. */
import { invalid } from '../../errors.ts'
import { command } from '../command.ts'
import { flatAddress, type SocketAddress, socketAddressLegacy } from '../schema/socket-address.ts'
import { bool, empty, object, optional, required, str, uint32 } from '../schema/types.ts'
import type { StorageDaemon } from '../storage-daemon.ts'
import { addExport, mode, nbdExportMembers } from './exports.ts'

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
  checkNoServer(daemon)
  const { 'tls-creds': credentials, 'tls-authz': authorisation } = options
  await daemon.exports.nbd.start(address, {
    maxConnections: options['max-connections'],
    tls: credentials === undefined ? undefined : objects.tlsCredentials(credentials, 'server'),
    authorise: authorisation === undefined ? undefined : objects.authorisation(authorisation),
  })
}

function checkNoServer(daemon: StorageDaemon): void {
  if (daemon.exports.nbd.server) throw invalid('NBD server already running')
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
    run({ addr, ...options }, { daemon }) {
      checkNoServer(daemon)
      // Numbers of descriptors mean something to whoever starts the daemon, not to its clients.
      if (addr.type === 'fd') throw invalid('only QEMU supports file descriptor passing')
      return startNbdServer(daemon, flatAddress(addr), options)
    },
  }),
  command({
    name: 'nbd-server-stop',
    topic: 'NBD and exports',
    doc: 'Ends all exports, whatever clients do, and the server.',
    args: empty,
    run: (_, { daemon }) => daemon.exports.stopNbdServer(),
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
    async run({ name, mode = 'safe' }, { daemon }) {
      const found = daemon.exports.list().find(({ id }) => id === name)
      if (found && found.type !== 'nbd')
        throw invalid(`Block export '${name}' is not an NBD export`)
      await daemon.exports.requestRemoval(name, mode)
    },
  }),
]
