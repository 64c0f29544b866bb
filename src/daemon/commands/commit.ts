/** `block-commit`. */
import { invalid } from '../../errors.ts'
import { chainOf, filenameOf, imagesOf, skipFilters } from '../../graph/chain.ts'
import type { BlockNode } from '../../graph/node.ts'
import { startCommit } from '../../job/commit.ts'
import { command } from '../command.ts'
import { QmpError } from '../errors.ts'
import {
  checkRoot,
  errorPolicy,
  imageByFilename,
  jobMembers,
  jobOptions,
  nodeByName,
} from '../job-arguments.ts'
import { object, optional, required, str } from '../schema/types.ts'
import type { StorageDaemon } from '../storage-daemon.ts'
import { checkSpeed } from './jobs.ts'

interface EndArguments {
  readonly base?: string
  readonly 'base-node'?: string
  readonly top?: string
  readonly 'top-node'?: string
}

export const commitCommands = [
  command({
    name: 'block-commit',
    topic: 'Jobs',
    doc:
      'Writes what images of a chain hold into one below them, while clients use the chain: a ' +
      'job copies, and at its end those images are out of the chain. Where the topmost image is ' +
      'committed, the job gets ready, and `job-complete` makes the base what clients use.',
    args: object('BlockCommitArg', {
      ...jobMembers,
      device: required(str, 'The node at the top of the chain.'),
      'base-node': optional(str, 'The image to write into, by node name; else the lowest.'),
      base: optional(str, 'The same, by file name.', ['deprecated']),
      'top-node': optional(str, 'The highest image to commit, by node name; else `device`.'),
      top: optional(str, 'The same, by file name.', ['deprecated']),
      'backing-file': optional(
        str,
        'Name of the base to record in the image above the top. Refused where there is none.',
      ),
      'on-error': optional(errorPolicy, 'What to do when a request fails.'),
    }),
    async run(args, { daemon }) {
      const device = daemon.graph.nodes.get(args.device)
      if (!device) throw new QmpError('DeviceNotFound', `Device '${args.device}' not found`)
      const node = checkRoot(device)
      const top = findTop(daemon, node, args)
      const base = findBase(daemon, node, top, args)
      if (top === base) throw invalid('cannot commit an image into itself')
      if (skipFilters(top) === skipFilters(base)) throw invalid("Can't mirror node into itself")
      for (const each of [node, ...chainOf(node).slice(0, chainOf(node).indexOf(base))]) {
        each.blockers.check('commit-source')
      }
      if (args['backing-file'] !== undefined && skipFilters(top) === skipFilters(node)) {
        throw invalid(`'backing-file' specified, but 'top' is the active layer`)
      }
      checkSpeed(args.speed ?? 0)
      await startCommit(daemon.graph, daemon.jobs, {
        ...jobOptions(args),
        node,
        top,
        base,
        backingFile: args['backing-file'],
        onError: args['on-error'],
      })
    },
  }),
]

function findTop({ graph }: StorageDaemon, node: BlockNode, args: EndArguments): BlockNode {
  const { top, 'top-node': topNode } = args
  if (topNode !== undefined && top !== undefined) {
    throw invalid("'top-node' and 'top' are mutually exclusive")
  }
  if (topNode !== undefined) {
    const found = nodeByName(graph, topNode)
    if (!chainOf(node).includes(found)) {
      throw invalid(`'${topNode}' is not in this backing file chain`)
    }
    return found
  }
  if (top === undefined) return node
  const found = filenameOf(node) === top ? node : imageByFilename(node, top)
  if (found) return found
  throw invalid(`Top image file ${top} not found`)
}

function findBase(
  { graph }: StorageDaemon,
  node: BlockNode,
  top: BlockNode,
  args: EndArguments,
): BlockNode {
  const { base, 'base-node': baseNode } = args
  if (baseNode !== undefined && base !== undefined) {
    throw invalid("'base-node' and 'base' are mutually exclusive")
  }
  if (baseNode !== undefined) {
    const found = nodeByName(graph, baseNode)
    if (!chainOf(top).includes(found)) {
      throw invalid(`'${baseNode}' is not in this backing file chain`)
    }
    return found
  }
  if (base === undefined) return imagesOf(node).at(-1)!
  const found = imageByFilename(top, base)
  if (found) return found
  throw invalid(`Can't find '${base}' in the backing chain`)
}
