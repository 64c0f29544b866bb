/** What commands that start jobs have in common: finding nodes, and options of every job. */
import { BlockError } from '../errors.ts'
import { chainOf, filenameOf, filteredEdge } from '../graph/chain.ts'
import type { Graph } from '../graph/graph.ts'
import type { BlockNode } from '../graph/node.ts'
import { bool, enumeration, int, optional, str } from './schema/types.ts'

export const errorPolicy = enumeration('BlockdevOnError', [
  'report',
  'ignore',
  'enospc',
  'stop',
  'auto',
])

export const jobMembers = {
  'job-id': optional(str, 'Id of the job; required, since nodes have no device names.'),
  speed: optional(int, 'Limit in bytes a second; 0 is no limit.'),
  'filter-node-name': optional(str, "Name of the job's filter."),
  'auto-finalize': optional(bool, 'If false, wait for `job-finalize` at the end.'),
  'auto-dismiss': optional(bool, 'If false, stay listed until `job-dismiss`.'),
}

interface JobArguments {
  readonly 'job-id'?: string
  readonly speed?: number
  readonly 'filter-node-name'?: string
  readonly 'auto-finalize'?: boolean
  readonly 'auto-dismiss'?: boolean
}

/** The options that every job has. */
export function jobOptions(args: JobArguments) {
  return {
    id: args['job-id'] ?? '',
    speed: args.speed ?? 0,
    filterName: args['filter-node-name'],
    manualFinalize: args['auto-finalize'] === false,
    manualDismiss: args['auto-dismiss'] === false,
  }
}

/** A node by name alone: `device=''` is QEMU's way to say so. */
export function nodeByName(graph: Graph, name: string): BlockNode {
  const node = graph.nodes.get(name)
  if (node) return node
  throw new BlockError('INVALID_ARGUMENT', `Cannot find device='' nor node-name='${name}'`, {
    node: name,
    errno: 'ENOENT',
  })
}

/** Refuses nodes that other nodes stand on, and those that jobs use. */
export function checkRoot(node: BlockNode): BlockNode {
  if (![...node.parents].some(({ owner, stays }) => owner || stays)) return node
  throw new BlockError('INVALID_ARGUMENT', 'Need a root block node', { node: node.name })
}

/** The image of a chain, below `node`, that goes by a file name; undefined when there is none. */
export function imageByFilename(node: BlockNode, filename: string): BlockNode | undefined {
  const [, ...below] = chainOf(node)
  return below.find((each) => !filteredEdge(each) && filenameOf(each) === filename)
}
