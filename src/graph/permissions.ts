/**
 * Who may do what. Every edge uses some permissions and shares some; on one node, what an edge
 * uses must be shared by all others. A node's needs flow down: what its parents together use and
 * share decides what it uses and shares on its own children.
 */
import {
  allPermissions,
  everyPermission,
  noPermission,
  type Permission,
  type Permissions,
  permissionSet,
} from '../block/permission.ts'
import { BlockError } from '../errors.ts'
import { describeUser, type Edge } from './edge.ts'
import type { BlockNode } from './node.ts'

/** Of a copy's target: others may write to it, for it may have the source as its backing file. */
export const targetPermissions: Permissions = {
  uses: permissionSet('write'),
  shares: permissionSet('consistentRead', 'write', 'writeUnchanged'),
}

type Plan = ReadonlyMap<Edge, Permissions>

/**
 * Works out the permissions of all edges anew, after the graph's shape has changed, and puts them
 * in force: in the graph and in the locks on image files. All of it or, with an error, none.
 */
export function refreshPermissions(nodes: Iterable<BlockNode>): void {
  const order = parentsFirst(nodes)
  const plan = planPermissions(order)
  for (const node of order) checkConflicts(node, plan)
  updateLocks(order, plan)
  for (const [edge, permissions] of plan) edge.grant(permissions)
  // Users from outside the graph keep what they have, while the node is active.
  for (const { parents } of order) {
    for (const edge of parents) if (edge.role === 'root') edge.grant(edge)
  }
}

/** What all of them use, and what none of them forbids. */
export function combined(users: readonly Permissions[]): Permissions {
  const uses = new Set<Permission>()
  const shares = new Set(allPermissions)
  for (const user of users) {
    for (const permission of user.uses) uses.add(permission)
    for (const permission of allPermissions) {
      if (!user.shares.has(permission)) shares.delete(permission)
    }
  }
  return { uses, shares }
}

function planPermissions(order: readonly BlockNode[]): Plan {
  const plan = new Map<Edge, Permissions>()
  for (const node of order) {
    const needs = plannedNeeds(node, plan)
    for (const edge of node.children.values()) plan.set(edge, childPermissions(node, edge, needs))
  }
  return plan
}

function plannedNeeds(node: BlockNode, plan: Plan): Permissions {
  return combined([...node.parents].map((edge) => plan.get(edge) ?? edge))
}

/** The usual needs of a role; a layer with `childPermissions` knows better. */
function childPermissions(node: BlockNode, edge: Edge, needs: Permissions): Permissions {
  if (edge.role === 'root') return edge
  if (!node.active) return { uses: noPermission, shares: everyPermission }
  const used = node.parents.size > 0
  const own = node.layer.childPermissions?.(edge.role, { ...needs, used })
  if (own) return own
  switch (edge.role) {
    case 'filtered':
      return needs
    case 'data':
      return dataPermissions(needs)
    case 'file':
    case 'data-file':
      return storagePermissions(node, needs)
    case 'backing':
      return backingPermissions(needs)
    case 'target':
      return targetPermissions
  }
}

/** Whoever writes data may write behind the end; nobody else changes where that is. */
function dataPermissions({ uses, shares }: Permissions): Permissions {
  const grows = uses.has('write') ? new Set<Permission>([...uses, 'resize']) : uses
  return { uses: grows, shares: without(shares, 'resize') }
}

/** Metadata must stay as it was read, and may be written even when the guest does not write. */
function storagePermissions(node: BlockNode, needs: Permissions): Permissions {
  const uses = new Set<Permission>([...needs.uses, 'consistentRead'])
  if (!node.flags.readOnly) uses.add('write').add('resize')
  if (node.flags.forceShare) return { uses, shares: everyPermission }
  return { uses, shares: without(needs.shares, 'write', 'resize') }
}

function without(
  permissions: ReadonlySet<Permission>,
  ...taken: readonly Permission[]
): ReadonlySet<Permission> {
  const rest = new Set(permissions)
  for (const each of taken) rest.delete(each)
  return rest
}

/** Somebody else may write to a backing file only where the overlay's users can bear it. */
function backingPermissions(needs: Permissions): Permissions {
  const uses = needs.uses.has('consistentRead') ? permissionSet('consistentRead') : noPermission
  const shares = needs.shares.has('write')
    ? everyPermission
    : permissionSet('consistentRead', 'writeUnchanged')
  return { uses, shares }
}

function checkConflicts(node: BlockNode, plan: Plan): void {
  // As QEMU goes through them: who came last is asked first what it shares.
  const users = [...node.parents].reverse()
  for (const other of users) {
    const { shares } = plan.get(other) ?? other
    for (const user of users) {
      if (other === user) continue
      const { uses } = plan.get(user) ?? user
      const refused = allPermissions.filter((each) => uses.has(each) && !shares.has(each))
      if (refused.length > 0) throw conflictError(node, refused, user, other)
    }
  }
  const { uses } = plannedNeeds(node, plan)
  if (node.active && node.flags.readOnly && (uses.has('write') || uses.has('writeUnchanged'))) {
    throw new BlockError('READ_ONLY', `Block node is read-only`, {
      node: node.name,
      errno: 'EACCES',
    })
  }
}

function conflictError(
  node: BlockNode,
  refused: readonly Permission[],
  user: Edge,
  other: Edge,
): BlockError {
  const names = refused.map((permission) => permissionNames[permission]).join(', ')
  return new BlockError(
    'PERMISSION',
    `Permission conflict on node '${node.name}': permissions '${names}' are both required by ` +
      `${describeUse(user)} and unshared by ${describeUse(other)}.`,
    { node: node.name, errno: 'EPERM' },
  )
}

function describeUse(edge: Edge): string {
  return `${describeUser(edge)} (uses node '${edge.node.name}' as '${edge.name}' child)`
}

const permissionNames: Readonly<Record<Permission, string>> = {
  consistentRead: 'consistent read',
  write: 'write',
  writeUnchanged: 'write unchanged',
  resize: 'resize',
}

/** Takes the locks that the plan calls for; on failure gives back what was taken. */
function updateLocks(order: readonly BlockNode[], plan: Plan): void {
  const changed: BlockNode[] = []
  try {
    for (const node of order) {
      const { locks } = node.layer
      if (!locks || node.flags.forceShare) continue
      const { uses, shares } = plannedNeeds(node, plan)
      locks.update(uses, shares)
      changed.push(node)
    }
  } catch (error) {
    for (const node of changed) {
      const { uses, shares } = combined([...node.parents])
      node.layer.locks?.update(uses, shares)
    }
    throw error
  }
}

/** Topological order: every node after all nodes that use it. */
function parentsFirst(nodes: Iterable<BlockNode>): BlockNode[] {
  const childrenFirst: BlockNode[] = []
  const seen = new Set<BlockNode>()
  const visit = (node: BlockNode) => {
    if (seen.has(node)) return
    seen.add(node)
    for (const edge of [...node.children.values()].reverse()) visit(edge.node)
    childrenFirst.push(node)
  }
  for (const node of nodes) visit(node)
  return childrenFirst.reverse()
}
