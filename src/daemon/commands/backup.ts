/** Backups: of a disk into a node, and of several disks into a VMA archive, as Proxmox asks. */

import type { DirtyBitmap } from '../../bitmap/dirty-bitmap.ts'
import { checkUsable } from '../../bitmap/usable.ts'
import { BlockError } from '../../errors.ts'
import { copyClusterSize } from '../../filter/copy-before-write.ts'
import type { BlockNode } from '../../graph/node.ts'
import { checkBackup, checkSizes, prepareBackup } from '../../job/backup.ts'
import type { FleecingOptions } from '../../job/fleecing.ts'
import type { BitmapMode } from '../../job/sync-bitmap.ts'
import { type ActionContext, action, actionCommand, type Prepared } from '../action.ts'
import { command } from '../command.ts'
import { formatOfExisting, makeImage, openImage } from '../new-image.ts'
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
  type Value,
} from '../schema/types.ts'
import type { StorageDaemon } from '../storage-daemon.ts'
import { checkSpeed } from './jobs.ts'

const syncMode = enumeration('MirrorSyncMode', ['top', 'full', 'none', 'incremental', 'bitmap'])
const bitmapSyncMode = enumeration('BitmapSyncMode', ['on-success', 'never', 'always'])
const errorPolicy = enumeration('BlockdevOnError', ['report', 'ignore', 'enospc', 'stop', 'auto'])

const maxInt = 2 ** 31 - 1

const performanceHints = object('BackupPerf', {
  'use-copy-range': optional(bool, 'Of no effect.'),
  'max-workers': optional(int, 'Of no effect.'),
  'max-chunk': optional(int, 'Of no effect.'),
})

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

const newImageMode = enumeration('NewImageMode', ['existing', 'absolute-paths'])

const backupCommon = {
  'job-id': optional(str, 'Id of the job; required, since nodes have no device names.'),
  device: required(str, 'The node to back up.'),
  sync: required(
    syncMode,
    '`full`: all of it; `top`: what its topmost image holds; `none`: only what is ' +
      'overwritten; `bitmap`: what a dirty bitmap says; `incremental`: the same with the mode ' +
      '`on-success`.',
  ),
  speed: optional(int, 'Limit in bytes a second; 0 is no limit.'),
  bitmap: optional(
    str,
    'A dirty bitmap of the node. Nobody else may work with it while the job runs.',
  ),
  'bitmap-mode': optional(
    bitmapSyncMode,
    'What the bitmap says afterwards. `on-success`: what changed since, if the backup succeeds; ' +
      'otherwise that, too. `always`: what changed since, and what was not copied. `never`: what ' +
      'it said before, and what changed.',
  ),
  compress: optional(bool, 'Compress, where the target can.'),
  'on-source-error': optional(errorPolicy, 'What to do when reading fails.'),
  'on-target-error': optional(errorPolicy, 'What to do when writing fails.'),
  'auto-finalize': optional(bool, 'If false, wait for `job-finalize` at the end.'),
  'auto-dismiss': optional(bool, 'If false, stay listed until `job-dismiss`.'),
  'filter-node-name': optional(str, 'Name of the filter that watches the writes.'),
  'x-perf': optional(performanceHints, 'Hints; of no effect.', ['unstable']),
}

const blockdevBackup = object('BlockdevBackup', {
  ...backupCommon,
  target: required(str, 'The node to back up to; of the same size.'),
})

const driveBackup = object('DriveBackup', {
  ...backupCommon,
  target: required(str, 'File name of the target.'),
  format: optional(
    str,
    'Format of the target; unless given, that of the source or, of an existing one, what it looks like.',
  ),
  mode: optional(newImageMode, '`existing`: the target is there; otherwise it is made.'),
})

type BlockdevBackup = Value<typeof blockdevBackup>
type DriveBackup = Value<typeof driveBackup>

const toNode = action<BlockdevBackup>({
  type: 'blockdev-backup',
  args: blockdevBackup,
  beginsJob: true,
  nodes: ({ device }) => [device],
  async prepare(args, context) {
    const { graph } = context.daemon
    return await prepared(args, graph.node(args.device), graph.node(args.target), context)
  },
})

const toFile = action<DriveBackup>({
  type: 'drive-backup',
  args: driveBackup,
  beginsJob: true,
  nodes: ({ device }) => [device],
  async prepare(args, context) {
    const { graph } = context.daemon
    const source = graph.node(args.device)
    source.blockers.check('backup-source')
    const target = await openTarget(context.daemon, source, args)
    try {
      return await prepared(args, source, target, context)
    } finally {
      // From now on it is the job's, and goes with it.
      graph.disown(target)
      await graph.changed([], () => ({ nodes: [target] }))
    }
  },
})

export const backupActions = [toNode, toFile]

async function prepared(
  args: BlockdevBackup | DriveBackup,
  source: BlockNode,
  target: BlockNode,
  { daemon, jobs: transaction }: ActionContext,
): Promise<Prepared> {
  const { speed = 0, sync } = args
  const bitmap = bitmapFor(args, source)
  checkBackup({ source, target, compress: args.compress })
  checkWorkers(args['x-perf'])
  checkSizes({ source, target })
  checkChunk(args['x-perf'], target)
  checkSpeed(speed)
  const { job, abort } = await prepareBackup(daemon.graph, daemon.jobs, {
    source,
    target,
    id: args['job-id'] ?? '',
    sync: sync === 'incremental' ? 'bitmap' : sync,
    ...bitmap,
    speed,
    compress: args.compress,
    onSourceError: args['on-source-error'],
    onTargetError: args['on-target-error'],
    manualFinalize: args['auto-finalize'] === false,
    manualDismiss: args['auto-dismiss'] === false,
    filterName: args['filter-node-name'],
    transaction,
  })
  return { commit: () => void job.start(), abort }
}

/** They are of no effect, but have to make sense. */
function checkWorkers(hints: BlockdevBackup['x-perf']): void {
  const { 'max-workers': workers = 64, 'max-chunk': chunk = 0 } = hints ?? {}
  if (workers < 1 || workers > maxInt) {
    throw invalid(`max-workers must be between 1 and ${maxInt}`)
  }
  if (chunk < 0) throw invalid('max-chunk must be zero (which means no limit) or positive')
}

function checkChunk(hints: BlockdevBackup['x-perf'], target: BlockNode): void {
  const chunk = hints?.['max-chunk'] ?? 0
  const clusterSize = copyClusterSize(target.layer)
  if (chunk > 0 && chunk < clusterSize) {
    throw invalid(`Required max-chunk (${chunk}) is less than backup cluster size (${clusterSize})`)
  }
}

/** The bitmap that takes part, and how, by the rules and in the words of QEMU. */
function bitmapFor(
  { sync, bitmap: name, 'bitmap-mode': mode }: BlockdevBackup | DriveBackup,
  source: BlockNode,
): { bitmap: DirtyBitmap; bitmapMode: BitmapMode } | undefined {
  if (name === undefined) {
    if (sync === 'incremental' || sync === 'bitmap') {
      throw invalid(`must provide a valid bitmap name for '${sync}' sync mode`)
    }
    if (mode !== undefined) throw invalid('Cannot specify bitmap sync mode without a bitmap')
    return undefined
  }
  if (sync === 'incremental' && (mode ?? 'on-success') !== 'on-success') {
    throw invalid("Bitmap sync mode must be 'on-success' when using sync mode 'incremental'")
  }
  const bitmap = source.bitmaps.get(name)
  if (!bitmap) throw invalid(`Bitmap '${name}' could not be found`)
  const bitmapMode = sync === 'incremental' ? 'on-success' : mode
  if (bitmapMode === undefined) {
    throw invalid('Bitmap sync mode must be given when providing a bitmap')
  }
  checkUsable(bitmap, { readOnly: true })
  if (sync === 'none') throw invalid("sync mode 'none' does not produce meaningful bitmap outputs")
  if (bitmapMode === 'never' && sync !== 'bitmap' && sync !== 'incremental') {
    throw invalid(
      `Bitmap sync mode 'never' has no meaningful effect when combined with sync mode '${sync}'`,
    )
  }
  return { bitmap, bitmapMode }
}

async function openTarget(
  { graph }: StorageDaemon,
  source: BlockNode,
  { target: filename, format: given, mode = 'absolute-paths', sync }: DriveBackup,
): Promise<BlockNode> {
  const isThere = mode === 'existing'
  const format = given ?? (isThere ? await formatOfExisting(graph, filename) : source.driver)
  if (format !== undefined && mode === 'absolute-paths') {
    const backing = sync === 'top' ? source.children.get('backing')?.node : undefined
    const base = sync === 'none' ? source : backing
    await makeImage(graph, { filename, format, size: source.size, base })
  }
  // What the target does not hold itself, the source's own backing file or the source shows.
  const backing = sync === 'none' ? { backing: source.name } : {}
  const sparse = { discard: 'unmap', 'detect-zeroes': 'unmap' }
  return await openImage(graph, filename, format, { ...sparse, ...backing })
}

export const backupCommands = [
  actionCommand(toNode, {
    topic: 'Backup',
    doc:
      'Backs a disk up to another node, as the disk is when the command is answered: a job ' +
      'copies it, and what clients overwrite meanwhile is copied first.',
  }),
  actionCommand(toFile, {
    topic: 'Backup',
    doc: 'The same into a file, which the command makes, or opens, itself.',
  }),
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

function invalid(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { errno: 'EINVAL' })
}
