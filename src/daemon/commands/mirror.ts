/** `blockdev-mirror`. */
import { BlockError } from '../../errors.ts'
import { startMirror } from '../../job/mirror.ts'
import { command } from '../command.ts'
import { checkRoot, errorPolicy, jobMembers, jobOptions } from '../job-arguments.ts'
import { enumeration, int, object, optional, required, str } from '../schema/types.ts'
import { checkSpeed } from './jobs.ts'

export const syncMode = enumeration('MirrorSyncMode', [
  'top',
  'full',
  'none',
  'incremental',
  'bitmap',
])

export const copyMode = enumeration('MirrorCopyMode', ['background', 'write-blocking'])

export const mirrorCommands = [
  command({
    name: 'blockdev-mirror',
    topic: 'Jobs',
    doc:
      'Makes a node like another, and keeps it so while clients write. When the job is ready, ' +
      '`job-complete` lets clients use the copy instead; `block-job-cancel` leaves it as it is.',
    args: object('BlockdevMirrorArg', {
      ...jobMembers,
      device: required(str, 'The node to copy.'),
      target: required(str, 'The node to copy to; of the same size.'),
      replaces: optional(str, 'The node that the copy replaces; `device` unless given.'),
      sync: required(
        syncMode,
        '`full`: all of it; `top`: what its topmost image holds; `none`: only what is written ' +
          'from now on. The others are refused.',
      ),
      granularity: optional(int, 'Bytes that are copied for a changed one; a power of two.'),
      'buf-size': optional(int, 'Bytes in flight at most.'),
      'on-source-error': optional(errorPolicy, 'What to do when reading fails.'),
      'on-target-error': optional(errorPolicy, 'What to do when writing fails.'),
      'copy-mode': optional(
        copyMode,
        "`write-blocking`: a client's write is answered when the copy has it, too.",
      ),
    }),
    async run(args, { daemon }) {
      const { graph, jobs } = daemon
      const source = checkRoot(graph.node(args.device))
      const target = graph.node(args.target)
      const { sync, granularity, 'buf-size': bufferSize } = args
      checkMirror(args)
      const replaces = args.replaces === undefined ? undefined : graph.nodes.get(args.replaces)
      if (source === target) throw invalid("Can't mirror node into itself")
      if (args.replaces !== undefined && !replaces) {
        throw invalid(`Failed to find node with node-name='${args.replaces}'`)
      }
      source.blockers.check('mirror-source')
      target.blockers.check('mirror-target')
      checkSpeed(args.speed ?? 0)
      await startMirror(graph, jobs, {
        ...jobOptions(args),
        source,
        target,
        replaces,
        sync: sync as 'full' | 'top' | 'none',
        granularity,
        bufferSize,
        copyMode: args['copy-mode'],
        onSourceError: args['on-source-error'],
        onTargetError: args['on-target-error'],
      })
    },
  }),
]

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

function invalid(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { errno: 'EINVAL' })
}
