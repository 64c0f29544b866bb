/** Backups of a disk into a node, or into a file that the command makes or opens. */
import type { DirtyBitmap } from '../../bitmap/dirty-bitmap.ts'
import { checkUsable } from '../../bitmap/usable.ts'
import { invalid } from '../../errors.ts'
import { copyClusterSize } from '../../filter/copy-before-write.ts'
import type { BlockNode } from '../../graph/node.ts'
import { checkBackup, checkSizes, prepareBackup } from '../../job/backup.ts'
import type { BitmapMode } from '../../job/sync-bitmap.ts'
import { type ActionContext, action, actionCommand, type Prepared } from '../action.ts'
import { formatOfExisting, makeImage, openImage } from '../new-image.ts'
import {
  bool,
  enumeration,
  int,
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
]
