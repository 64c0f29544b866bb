/** Commands for looking into the graph, and at its threads: unstable ones, in QEMU too. */
import type { Permission } from '../../block/permission.ts'
import { invalid } from '../../errors.ts'
import type { Edge } from '../../graph/edge.ts'
import type { Graph } from '../../graph/graph.ts'
import { jobOf } from '../../job/ground.ts'
import { command } from '../command.ts'
import {
  alternate,
  bool,
  empty,
  enumeration,
  int,
  list,
  nothing,
  object,
  optional,
  required,
  str,
} from '../schema/types.ts'

/** In QEMU's order, and by QEMU's names. */
const permissions: readonly (readonly [Permission, PermissionName])[] = [
  ['resize', 'resize'],
  ['writeUnchanged', 'write-unchanged'],
  ['write', 'write'],
  ['consistentRead', 'consistent-read'],
]
type PermissionName = 'consistent-read' | 'write' | 'write-unchanged' | 'resize'

type GraphNodeType = 'block-backend' | 'block-job' | 'block-driver'

const graphNodeType = enumeration<GraphNodeType>('XDbgBlockGraphNodeType', [
  'block-backend',
  'block-job',
  'block-driver',
])

const permission = enumeration<PermissionName>('BlockPermission', [
  'consistent-read',
  'write',
  'write-unchanged',
  'resize',
])

const graphNode = object('XDbgBlockGraphNode', {
  id: required(int, 'Its number in this answer.'),
  type: required(graphNodeType, 'A node, a job, or another user of nodes, such as an export.'),
  name: required(str, 'Name of the node, id of the job, or nothing.'),
})

const graphEdge = object('XDbgBlockGraphEdge', {
  parent: required(int, 'Number of the user.'),
  child: required(int, 'Number of the node that is used.'),
  name: required(str, 'What the node is to its user.'),
  perm: required(list(permission), 'What the user does.'),
  'shared-perm': required(list(permission), 'What others may do.'),
})

const description = object('XDbgBlockGraph', {
  nodes: required(list(graphNode), 'Nodes and their users.'),
  edges: required(list(graphEdge), 'Who uses what.'),
})

/** A name, or nothing at all. */
const iothread = alternate<string | null>('StrOrNull', () => [str, nothing])

export const blockGraphCommands = [
  command({
    name: 'x-debug-query-block-graph',
    topic: 'Block nodes',
    doc: 'Describes the graph: nodes, their users, and what those are permitted.',
    features: ['unstable'],
    args: empty,
    returns: description,
    concurrent: true,
    run: (_, { daemon }) => describeGraph(daemon.graph),
  }),
  command({
    name: 'x-blockdev-set-iothread',
    topic: 'Block nodes',
    doc: 'Checks its arguments, and is of no effect: there is one event loop.',
    features: ['unstable'],
    args: object('XBlockdevSetIothreadArg', {
      'node-name': required(str, 'The node.'),
      iothread: required(iothread, 'An `iothread` object; `null` is the main loop.'),
      force: optional(bool, 'Even while an export uses the node.'),
    }),
    run({ 'node-name': name, iothread: id, force = false }, { daemon }) {
      const node = daemon.graph.nodes.get(name)
      if (!node) throw invalid(`Failed to find node with node-name='${name}'`)
      if (!force && [...node.parents].some((edge) => edge.role === 'root' && !jobOf(edge))) {
        throw invalid(
          `Node ${name} is associated with a BlockBackend and could be in use ` +
            '(use force=true to override this check)',
        )
      }
      if (id !== null && daemon.objects.get(id)?.type !== 'iothread') {
        throw invalid(`Cannot find iothread ${id}`)
      }
    },
  }),
]

function describeGraph(graph: Graph) {
  const numbers = new Map<unknown, number>()
  const nodes: { id: number; type: GraphNodeType; name: string }[] = []
  const number = (key: unknown, type: GraphNodeType, name: string): number => {
    const known = numbers.get(key)
    if (known !== undefined) return known
    const id = numbers.size + 1
    numbers.set(key, id)
    nodes.push({ id, type, name })
    return id
  }
  const ofUser = (edge: Edge): number => {
    if (edge.owner) return number(edge.owner, 'block-driver', edge.owner.name)
    const job = jobOf(edge)
    return job === undefined
      ? number(edge, 'block-backend', '')
      : number(`job ${job}`, 'block-job', job)
  }
  const all = [...graph.nodes.values()]
  for (const node of all) number(node, 'block-driver', node.name)
  const edges = all.flatMap((node) =>
    [...node.parents].map((edge) => ({
      parent: ofUser(edge),
      child: number(node, 'block-driver', node.name),
      name: edge.name,
      perm: namesOf(edge.uses),
      'shared-perm': namesOf(edge.shares),
    })),
  )
  return { nodes, edges }
}

function namesOf(set: ReadonlySet<Permission>): PermissionName[] {
  return permissions.filter(([permission]) => set.has(permission)).map(([, name]) => name)
}
