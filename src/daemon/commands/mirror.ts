/** `blockdev-mirror` and `drive-mirror`. */

import { invalid } from '../../errors.ts'
import { skipFilters } from '../../graph/chain.ts'
import type { BlockNode } from '../../graph/node.ts'
import { checkNotBacking } from '../../graph/overlay.ts'
import { checkReplaceable } from '../../graph/replaceable.ts'
import { backingOf } from '../../graph/status.ts'
import { checkGranularity, type MirrorOptions, startMirror } from '../../job/mirror.ts'
import { command } from '../command.ts'
import { checkRoot, errorPolicy, jobMembers, jobOptions } from '../job-arguments.ts'
import { formatOfExisting, makeImage, openImage } from '../new-image.ts'
import {
  bool,
  enumeration,
  int,
  object,
  optional,
  required,
  str,
  uint32,
  type Value,
} from '../schema/types.ts'
import type { StorageDaemon } from '../storage-daemon.ts'
import { checkSpeed } from './jobs.ts'

export const syncMode = enumeration('MirrorSyncMode', [
  'top',
  'full',
  'none',
  'incremental',
  'bitmap',
])

export const copyMode = enumeration('MirrorCopyMode', ['background', 'write-blocking'])

const newImageMode = enumeration('NewImageMode', ['existing', 'absolute-paths'])

const common = {
  'job-id': jobMembers['job-id'],
  speed: jobMembers.speed,
  'auto-finalize': jobMembers['auto-finalize'],
  'auto-dismiss': jobMembers['auto-dismiss'],
  device: required(str, 'The node to copy.'),
  replaces: optional(str, 'The node that the copy replaces; `device` unless given.'),
  sync: required(
    syncMode,
    '`full`: all of it; `top`: what its topmost image holds; `none`: only what is written ' +
      'from now on. The others are refused.',
  ),
  granularity: optional(uint32, 'Bytes that are copied for a changed one; a power of two.'),
  'buf-size': optional(int, 'Bytes in flight at most.'),
  'on-source-error': optional(errorPolicy, 'What to do when reading fails.'),
  'on-target-error': optional(errorPolicy, 'What to do when writing fails.'),
  'copy-mode': optional(
    copyMode,
    "`write-blocking`: a client's write is answered when the copy has it, too.",
  ),
}

const blockdevMirror = object('BlockdevMirrorArg', {
  ...common,
  'filter-node-name': jobMembers['filter-node-name'],
  target: required(str, 'The node to copy to; of the same size.'),
})

const driveMirror = object('DriveMirror', {
  ...common,
  target: required(str, 'File name of the target.'),
  format: optional(
    str,
    'Format of the target; unless given, that of the source or, of an existing one, what it looks like.',
  ),
  'node-name': optional(str, "Name of the target's node."),
  mode: optional(newImageMode, '`existing`: the target is there; otherwise it is made.'),
  unmap: optional(bool, 'Whether zeroes may deallocate in the target; true unless given.'),
})

type DriveMirror = Value<typeof driveMirror>
type Common = Value<typeof blockdevMirror> | DriveMirror

export const mirrorCommands = [
  command({
    name: 'blockdev-mirror',
    topic: 'Jobs',
    doc:
      'Makes a node like another, and keeps it so while clients write. When the job is ready, ' +
      '`job-complete` lets clients use the copy instead; `block-job-cancel` leaves it as it is.',
    args: blockdevMirror,
    async run(args, { daemon }) {
      const { graph } = daemon
      const source = checkRoot(graph.node(args.device))
      const target = graph.node(args.target)
      await start(daemon, args, source, target, { filterName: args['filter-node-name'] })
    },
  }),
  command({
    name: 'drive-mirror',
    topic: 'Jobs',
    doc: 'As `blockdev-mirror`, to a file that is made for it, or opened.',
    args: driveMirror,
    async run(args, { daemon }) {
      const { graph } = daemon
      const source = checkRoot(graph.node(args.device))
      if (args.replaces !== undefined && args['node-name'] === undefined) {
        throw invalid('a node-name must be provided when replacing a named node of the graph')
      }
      checkMirror(args)
      const sync = args.sync === 'top' && !backingOf(source) ? 'full' : args.sync
      source.blockers.check('mirror-source')
      const target = await openTarget(daemon, source, { ...args, sync })
      try {
        const backing = sync === 'none' ? source : backingOf(source)
        const shows = sync !== 'full' && args.mode !== 'existing' ? backing : undefined
        await start(daemon, args, source, target, { unmap: args.unmap, pivotBacking: shows })
      } finally {
        // From now on it is the job's, and goes with it unless it has taken over.
        graph.disown(target)
        await graph.changed([], () => ({ nodes: [target] }))
      }
    },
  }),
]

async function start(
  { graph, jobs }: StorageDaemon,
  args: Common,
  source: BlockNode,
  target: BlockNode,
  more: Pick<MirrorOptions, 'filterName' | 'unmap' | 'pivotBacking'>,
): Promise<void> {
  const { sync } = args
  checkGranularity(args.granularity)
  source.blockers.check('mirror-source')
  target.blockers.check('mirror-target')
  checkNotBacking(target)
  const replaces = args.replaces === undefined ? undefined : graph.nodes.get(args.replaces)
  if (args.replaces !== undefined && !replaces) {
    throw invalid(`Failed to find node with node-name='${args.replaces}'`)
  }
  if (replaces) checkReplaceable(source, replaces)
  checkMirror(args)
  if (skipFilters(source) === skipFilters(target)) throw invalid("Can't mirror node into itself")
  jobs.checkId(args['job-id'] ?? source.name)
  checkSpeed(args.speed ?? 0)
  await startMirror(graph, jobs, {
    ...jobOptions(args),
    ...more,
    source,
    target,
    replaces,
    sync: sync as 'full' | 'top' | 'none',
    granularity: args.granularity,
    bufferSize: args['buf-size'],
    copyMode: args['copy-mode'],
    onSourceError: args['on-source-error'],
    onTargetError: args['on-target-error'],
  })
}

/** Without its backing file: that is attached when the target takes over. */
async function openTarget(
  { graph }: StorageDaemon,
  source: BlockNode,
  args: DriveMirror & { readonly sync: string },
): Promise<BlockNode> {
  const { target: filename, format: given, mode = 'absolute-paths', sync } = args
  const isThere = mode === 'existing'
  const format = given ?? (isThere ? await formatOfExisting(graph, filename) : source.driver)
  if (format !== undefined && mode === 'absolute-paths') {
    const base = sync === 'none' ? source : sync === 'top' ? backingOf(source) : undefined
    await makeImage(graph, { filename, format, size: source.size, base })
  }
  const named = args['node-name'] === undefined ? {} : { 'node-name': args['node-name'] }
  const backing =
    graph.drivers.some(({ name, kind }) => name === format && kind === 'format') &&
    format !== 'raw' &&
    (mode === 'absolute-paths' || sync === 'full')
      ? { backing: null }
      : {}
  return await openImage(graph, filename, format, { ...named, ...backing })
}

function checkMirror(args: {
  readonly sync: string
  readonly granularity?: number
  readonly 'buf-size'?: number
}): void {
  if (args.sync === 'incremental' || args.sync === 'bitmap') {
    throw invalid(`Sync mode '${args.sync}' not supported`)
  }
  if ((args['buf-size'] ?? 0) < 0) throw invalid("Invalid parameter 'buf-size'")
}
