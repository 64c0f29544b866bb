/** `block-stream`, and `change-backing-file`, which corrects what an image records. */
import { plainIo } from '../../block/layer.ts'
import { inContext, invalid } from '../../errors.ts'
import { chainOf, edgeBelow, skipFilters } from '../../graph/chain.ts'
import type { BlockNode } from '../../graph/node.ts'
import { recordOf } from '../../graph/record.ts'
import { baseBelow, startStream } from '../../job/stream.ts'
import { command } from '../command.ts'
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

interface BaseArguments {
  readonly base?: string
  readonly 'base-node'?: string
  readonly bottom?: string
}

export const streamCommands = [
  command({
    name: 'block-stream',
    topic: 'Jobs',
    doc:
      'Lets an image take over what its backing files hold, down to a base, while clients use ' +
      'it: a job copies, and at its end the image has the base, or nothing, as its backing file.',
    args: object('BlockStreamArg', {
      ...jobMembers,
      device: required(str, 'The node of the image.'),
      base: optional(str, 'The base, by file name.'),
      'base-node': optional(str, 'The base, by node name.'),
      bottom: optional(str, 'The lowest node that is taken over, instead of a base.'),
      'backing-file': optional(str, 'Name of the base to record in the image.'),
      'on-error': optional(errorPolicy, 'What to do when a request fails.'),
    }),
    async run(args, { daemon }) {
      refuseTwo(args)
      const node = daemon.graph.node(args.device)
      const base = findBase(daemon, node, args)
      if (base === undefined && args['backing-file'] !== undefined) {
        throw invalid('backing file specified, but streaming the entire chain')
      }
      for (const each of nodesAbove(node, base)) each.blockers.check('stream')
      checkSpeed(args.speed ?? 0)
      await startStream(daemon.graph, daemon.jobs, {
        ...jobOptions(args),
        node,
        base,
        backingFile: args['backing-file'],
        onError: args['on-error'],
      })
    },
  }),
  command({
    name: 'change-backing-file',
    topic: 'Block nodes',
    doc: 'Changes the name of the backing file that an image records; what is open stays so.',
    args: object('ChangeBackingFileArg', {
      device: required(str, 'The node at the top of the chain.'),
      'image-node-name': required(str, 'The node of the image.'),
      'backing-file': required(str, 'The new name.'),
    }),
    async run(args, { daemon }) {
      const { graph } = daemon
      const top = checkRoot(graph.node(args.device))
      const image = nodeByName(graph, args['image-node-name'])
      if (edgeBelow(image) === undefined) {
        throw invalid('not allowing backing file change on an image without a backing file')
      }
      if (!chainOf(top).includes(image)) {
        throw invalid(`'${top.name}' and image file are not in the same chain`)
      }
      image.blockers.check('change')
      const { backingLink } = image.layer
      const failed = `Could not change backing file to '${args['backing-file']}'`
      if (!backingLink) throw invalid(`${failed}: Operation not supported`)
      const wasReadOnly = image.flags.readOnly
      await graph.setReadOnly(image, false)
      try {
        const below = recordOf(baseBelow(image)!, args['backing-file'])
        await graph.drained([image], () => backingLink.change(below, plainIo))
      } catch (error) {
        throw inContext(failed, error)
      } finally {
        await graph.setReadOnly(image, wasReadOnly)
      }
    },
  }),
]

function refuseTwo(args: BaseArguments): void {
  for (const [one, other] of [
    ['base', 'base-node'],
    ['base', 'bottom'],
    ['bottom', 'base-node'],
  ] as const) {
    if (args[one] !== undefined && args[other] !== undefined) {
      throw invalid(`'${one}' and '${other}' cannot be specified at the same time`)
    }
  }
}

function findBase(
  { graph }: StorageDaemon,
  node: BlockNode,
  args: BaseArguments,
): BlockNode | undefined {
  const { base, bottom } = args
  if (base !== undefined) {
    const found = imageByFilename(node, base)
    if (!found) throw invalid(`Can't find '${base}' in the backing chain`)
    return found
  }
  if (args['base-node'] !== undefined) {
    const found = nodeByName(graph, args['base-node'])
    const [, ...below] = chainOf(skipFilters(node))
    if (below.includes(found)) return found
    const [, ...withFilters] = chainOf(node)
    if (withFilters.includes(found)) {
      throw invalid(`'${found.name}' is not in the backing chain of '${node.name}'`)
    }
    throw invalid(`Node '${found.name}' is not a backing image of '${node.name}'`)
  }
  if (bottom === undefined) return undefined
  const lowest = nodeByName(graph, bottom)
  if (!chainOf(node).includes(lowest)) {
    throw invalid(`Node '${bottom}' is not in a chain starting from '${node.name}'`)
  }
  return baseBelow(lowest)
}

function nodesAbove(node: BlockNode, base: BlockNode | undefined): BlockNode[] {
  const chain = chainOf(node)
  return base ? chain.slice(0, chain.indexOf(base)) : chain
}
