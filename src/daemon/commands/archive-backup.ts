/** Backups of several disks into one VMA archive, as Proxmox asks for them. */
import { invalid } from '../../errors.ts'
import type { FleecingOptions } from '../../job/fleecing.ts'
import { command } from '../command.ts'
import {
  bool,
  empty,
  enumeration,
  int,
  list,
  object,
  optional,
  required,
  str,
} from '../schema/types.ts'
import type { StorageDaemon } from '../storage-daemon.ts'
import { checkSpeed } from './jobs.ts'

const archiveDevice = object('ArchiveDevice', {
  'node-name': required(str, 'The node.'),
  name: optional(str, 'What the archive calls it; the node name unless given.'),
})

const archiveConfig = object('ArchiveConfig', {
  path: required(str, 'Path of the file.'),
  name: optional(str, 'What the archive calls it; the base name of the path unless given.'),
})

const backupStatus = object('BackupStatus', {
  status: optional(str, '`active`, `done` or `error`; absent when there was no backup.'),
  errmsg: optional(str, 'Why it failed.'),
  total: optional(int, 'Bytes of all disks.'),
  transferred: optional(int, 'Bytes of them that are stored.'),
  'zero-bytes': optional(int, 'Bytes of those that are zeroes and take no space.'),
  'start-time': optional(int, 'Seconds since the epoch.'),
  'end-time': optional(int, 'Seconds since the epoch.'),
  'backup-file': optional(str, 'The archive.'),
  uuid: optional(str, 'Its uuid.'),
  'job-id': optional(str, 'The job, for `block-job-set-speed` and the like. Ours.'),
  'spill-used': optional(int, 'With fleecing: bytes of old data that wait. Ours.'),
  'spill-peak': optional(int, 'The same at the worst moment. Ours.'),
})

export const archiveBackupCommands = [
  command({
    name: 'backup',
    topic: 'Backup',
    addition: true,
    doc:
      "Proxmox's command: backs several disks up into one archive, as they all are in one " +
      'moment. It is answered when that moment is preserved; `query-backup` tells how the ' +
      'copying goes. One backup can be under way at a time.',
    args: object('BackupArg', {
      'backup-file': required(
        str,
        'The archive: a new file, a FIFO (the command waits for its reader), or ' +
          '`/dev/fdset/N` for descriptor N of the daemon. Names that end in `.zst` or `.gz` are ' +
          'compressed. A file gets its name only when it is complete.',
      ),
      format: optional(enumeration('BackupFormat', ['vma']), 'Kind of archive.'),
      'config-file': optional(str, 'A configuration file to store under its base name.'),
      'firewall-file': optional(str, 'Another one.'),
      configs: optional(list(archiveConfig), 'Further ones. Ours.'),
      devlist: optional(
        str,
        'Node names, separated by commas, semicolons, colons or white space. Unless disks are ' +
          'named here or in `devices`, all exported nodes are backed up.',
      ),
      devices: optional(list(archiveDevice), 'Nodes, each with a name for the archive. Ours.'),
      speed: optional(int, 'Limit in bytes a second; 0 is no limit.'),
      'job-id': optional(str, 'Id of the job; chosen unless given. Ours.'),
      fleecing: optional(
        bool,
        'Clients that overwrite something during the backup wait until the old data is in a fast ' +
          'spill area, not in the archive: in the node called as the disk with `-fleecing` at the ' +
          'end, if there is one, which is overwritten; otherwise in a file.',
      ),
      'spill-folder': optional(
        str,
        'Folder of that file, which has no name; `$TMPDIR` or `/var/tmp` unless given. Ours.',
      ),
      'spill-limit': optional(
        int,
        'Bytes of old data that may wait at a time, of all disks; 4 GiB unless given. Ours.',
      ),
      'on-spill-full': optional(
        enumeration('OnSpillFull', ['slow', 'give-up']),
        'When they do: `slow` (unless given) lets clients wait for the archive, as without ' +
          'fleecing; `give-up` ends the backup. Ours.',
      ),
    }),
    returns: object('UuidInfo', { UUID: required(str, 'The uuid of the archive.') }),
    concurrent: true,
    async run(args, { daemon }) {
      const { speed = 0, configs = [] } = args
      checkSpeed(speed)
      const files = [args['config-file'], args['firewall-file']].filter(
        (file) => file !== undefined,
      )
      const fleecing = fleecingOf(args)
      const UUID = await daemon.backups.start({
        file: args['backup-file'],
        disks: disksOf(daemon, args),
        fleecing,
        configs: [...files.map((path) => ({ path })), ...configs],
        speed,
        jobId: args['job-id'],
      })
      return { UUID }
    },
  }),
  command({
    name: 'query-backup',
    topic: 'Backup',
    addition: true,
    doc: "Proxmox's command: tells how the backup goes, or how the last one ended.",
    args: empty,
    returns: backupStatus,
    concurrent: true,
    run: (_, { daemon }) => daemon.backups.status(),
  }),
  command({
    name: 'backup-cancel',
    topic: 'Backup',
    addition: true,
    doc:
      "Proxmox's command: cancels the backup, so that no archive remains. Without effect when " +
      'none is under way.',
    args: empty,
    concurrent: true,
    run: (_, { daemon }) => daemon.backups.cancel(),
  }),
]

interface NamedDisks {
  readonly devlist?: string
  readonly devices?: readonly { readonly 'node-name': string; readonly name?: string }[]
}

function disksOf(daemon: StorageDaemon, { devlist, devices = [] }: NamedDisks) {
  const listed = devlist?.split(/[,;:\s]+/).filter((name) => name !== '') ?? []
  const named = [...listed.map((name) => ({ 'node-name': name, name })), ...devices]
  const exported = daemon.exports.list().map((each) => ({ 'node-name': each['node-name'] }))
  const chosen: NamedDisks['devices'] =
    named.length > 0 ? named : unique(exported.reverse(), (each) => each['node-name'])
  if (chosen.length === 0) {
    throw invalid(`no disks to back up: nothing is exported, so name nodes in 'devlist'`)
  }
  return chosen.map((each) => ({
    name: each.name ?? each['node-name'],
    node: daemon.graph.node(each['node-name']),
    spill: daemon.graph.nodes.get(`${each['node-name']}-fleecing`),
  }))
}

interface FleecingArguments {
  readonly fleecing?: boolean
  readonly 'spill-folder'?: string
  readonly 'spill-limit'?: number
  readonly 'on-spill-full'?: 'slow' | 'give-up'
}

function fleecingOf(args: FleecingArguments): FleecingOptions | undefined {
  if (!args.fleecing) {
    const given = (['spill-folder', 'spill-limit', 'on-spill-full'] as const).find(
      (name) => args[name] !== undefined,
    )
    if (given) throw invalid(`'${given}' needs 'fleecing'`)
    return undefined
  }
  return {
    folder: args['spill-folder'],
    limit: args['spill-limit'],
    onFull: args['on-spill-full'],
  }
}

function unique<T>(items: readonly T[], key: (item: T) => string): T[] {
  return [...new Map(items.map((item) => [key(item), item])).values()]
}
