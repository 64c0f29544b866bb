/**
 * The nodes and edges themselves, and the primitive changes of their shape. Each either happens
 * whole or leaves everything as it was. `Graph` offers them to the world, `NodeOpener` to drivers.
 */
import {
  type ChildRole,
  everyPermission,
  noPermission,
  type Permissions,
} from '../block/permission.ts'
import { BlockError } from '../errors.ts'
import { type DrainHandler, Edge, type EdgeUser } from './edge.ts'
import type { BlockNode } from './node.ts'
import { refreshPermissions } from './permissions.ts'

export class GraphShape {
  readonly nodes = new Map<string, BlockNode>()
  /** Nodes that stay although nobody uses them. */
  readonly kept = new Set<BlockNode>()
  /** Names of nodes that are being opened or closed. */
  readonly #reserved = new Set<string>()
  /** Left the graph, and not closed yet. */
  readonly #retired = new Set<BlockNode>()
  #counter = 0

  /** The node of that name; throws `INVALID_ARGUMENT` when there is none. */
  node(name: string): BlockNode {
    const node = this.nodes.get(name)
    if (node) return node
    throw new BlockError(
      'INVALID_ARGUMENT',
      `Cannot find device='${name}' nor node-name='${name}'`,
      { node: name, errno: 'ENOENT' },
    )
  }

  /** Takes a name, or makes one up, for a node that is being opened; `unreserve` ends that. */
  reserve(wanted: string | undefined): string {
    if (wanted === undefined) {
      let name: string
      do name = `#block${String(this.#counter++).padStart(3, '0')}`
      while (this.nodes.has(name))
      this.#reserved.add(name)
      return name
    }
    if (this.nodes.has(wanted) || this.#reserved.has(wanted)) {
      throw new BlockError('INVALID_ARGUMENT', `Duplicate nodes with node-name='${wanted}'`, {
        node: wanted,
        errno: 'EINVAL',
      })
    }
    this.#reserved.add(wanted)
    return wanted
  }

  unreserve(name: string): void {
    this.#reserved.delete(name)
  }

  /** Adds an open node with the edges to its children; throws and adds nothing if that conflicts. */
  register(node: BlockNode, children: ReadonlyMap<string, Edge>): void {
    for (const [name, edge] of children) {
      node.children.set(name, edge)
      edge.owner = node
    }
    this.nodes.set(node.name, node)
    try {
      refreshPermissions(this.nodes.values())
    } catch (error) {
      this.nodes.delete(node.name)
      throw error
    }
  }

  /** A new edge to `node`; throws and makes none when permissions conflict. */
  connect(
    node: BlockNode,
    role: ChildRole | 'root',
    user: EdgeUser,
    wants: Permissions,
    { drain, name, stays }: ConnectOptions = {},
  ): Edge {
    this.#checkOpen(node)
    const release = (edge: Edge) => this.#disconnect(edge)
    const edge = new Edge(node, { role, name, user, ...wants, drain, stays, release })
    node.parents.add(edge)
    try {
      refreshPermissions(this.nodes.values())
    } catch (error) {
      node.parents.delete(edge)
      throw error
    }
    return edge
  }

  /** A new edge of role `data`, from a node that is open; throws and makes none when refused. */
  addChild(parent: BlockNode, node: BlockNode, name: string): Edge {
    if (standsOn(node, parent)) throw loopError(parent.name, name, node)
    const wants = { uses: noPermission, shares: everyPermission }
    const edge = this.connect(node, 'data', { node: parent.name }, wants, { name })
    parent.children.set(name, edge)
    edge.owner = parent
    try {
      refreshPermissions(this.nodes.values())
    } catch (error) {
      parent.children.delete(name)
      node.parents.delete(edge)
      refreshPermissions(this.nodes.values())
      throw error
    }
    return edge
  }

  async #disconnect(edge: Edge): Promise<void> {
    const { node } = edge
    node.parents.delete(edge)
    try {
      await this.closeUnused(node)
    } finally {
      refreshPermissions(this.nodes.values())
    }
  }

  async closeUnused(node: BlockNode): Promise<void> {
    if (node.parents.size === 0 && !this.kept.has(node)) await this.close(node)
  }

  /** Closes a node without users, then those of its children that nobody else uses. */
  async close(node: BlockNode): Promise<void> {
    if (!this.#retired.delete(node)) {
      if (this.nodes.get(node.name) !== node) return
      this.#retire(node)
      this.#retired.delete(node)
    }
    let failure: { error: unknown } | undefined
    const attempt = (work: PromiseLike<void>) =>
      work.then(undefined, (error: unknown) => {
        failure ??= { error }
      })
    await attempt(node[Symbol.asyncDispose]())
    for (const edge of node.children.values()) await attempt(edge[Symbol.asyncDispose]())
    this.#reserved.delete(node.name)
    if (failure) throw failure.error
  }

  /** From this moment on nobody finds the node, or comes to use it; its name is free once it is closed. */
  #retire(node: BlockNode): void {
    this.nodes.delete(node.name)
    this.#reserved.add(node.name)
    this.#retired.add(node)
  }

  #checkOpen(node: BlockNode): void {
    if (this.nodes.get(node.name) === node) return
    throw new BlockError('CLOSED', `${node.name} is closed`, { node: node.name })
  }

  /**
   * Moves edges to other nodes and takes edges away, or leaves everything where it is and throws.
   * A filter that is `leaving` holds its children no longer, so nothing of it conflicts with its
   * former users, and nobody finds it any more; closing it is the caller's. Edges that were dropped are the caller's to dispose.
   */
  change({ moves = [], dropped = [], leaving, backing, frozen = 'heeded' }: ShapeChange): void {
    if (frozen === 'heeded') for (const { edge, to } of moves) checkFrozen(edge, to)
    for (const { edge, to } of moves) {
      this.#checkOpen(to)
      checkLoop(edge, to)
    }
    if (backing) this.#checkOpen(backing.to)
    if (backing && standsOn(backing.to, backing.of)) {
      throw loopError(backing.of.name, 'backing', backing.to)
    }
    const back = moves.map(({ edge }) => ({ edge, to: edge.node }))
    const held = [...(leaving?.children.values() ?? []), ...dropped]
    for (const move of moves) moveEdge(move)
    for (const edge of held) edge.node.parents.delete(edge)
    const added = backing && this.#placeBacking(backing.of, backing.to)
    try {
      refreshPermissions(this.nodes.values())
    } catch (error) {
      added?.takeAway()
      for (const move of back) moveEdge(move)
      for (const edge of held) edge.node.parents.add(edge)
      throw error
    }
    if (added) backing?.of.layer.setBacking?.(added.edge)
    if (leaving) this.#retire(leaving)
  }

  /**
   * Gives a node another backing file, or none; throws and changes nothing when that is refused.
   * Returns the edge that the node no longer has, if any, for the caller to dispose.
   */
  setBacking(node: BlockNode, to: BlockNode | undefined): Edge | undefined {
    const edge = node.children.get('backing')
    if (edge?.node === to) return undefined
    if (edge && to) {
      this.change({ moves: [{ edge, to }] })
      return undefined
    }
    const { setBacking } = node.layer
    if (!setBacking) {
      throw new BlockError('UNSUPPORTED', `'${node.driver}' does not support a backing file`, {
        node: node.name,
        errno: 'ENOTSUP',
      })
    }
    if (edge) {
      checkFrozen(edge, undefined)
      this.#removeBacking(node, edge)
    } else if (to) {
      this.#addBacking(node, to)
    }
    return edge
  }

  #removeBacking(node: BlockNode, edge: Edge): void {
    node.children.delete('backing')
    try {
      this.change({ dropped: [edge] })
    } catch (error) {
      node.children.set('backing', edge)
      throw error
    }
    node.layer.setBacking?.(undefined)
  }

  #addBacking(node: BlockNode, to: BlockNode): void {
    this.#checkOpen(to)
    const added = this.#placeBacking(node, to)
    try {
      refreshPermissions(this.nodes.values())
    } catch (error) {
      added.takeAway()
      throw error
    }
    node.layer.setBacking?.(added.edge)
  }

  /** An edge whose permissions are still to be worked out. */
  #placeBacking(node: BlockNode, to: BlockNode) {
    if (standsOn(to, node)) throw loopError(node.name, 'backing', to)
    const release = (edge: Edge) => this.#disconnect(edge)
    const nothing = { uses: noPermission, shares: everyPermission }
    const user = { node: node.name }
    const edge = new Edge(to, { role: 'backing', user, ...nothing, release })
    edge.owner = node
    node.children.set('backing', edge)
    to.parents.add(edge)
    const takeAway = () => {
      node.children.delete('backing')
      to.parents.delete(edge)
    }
    return { edge, takeAway }
  }

  /** Works the permissions out anew after something that they depend on has changed. */
  refresh(): void {
    refreshPermissions(this.nodes.values())
  }
}

export interface ConnectOptions {
  readonly drain?: DrainHandler
  /** Name of the child, where the role's is not it. */
  readonly name?: string
  /** See `EdgeSettings`. */
  readonly stays?: boolean
}

/** An edge and the node that it is to point at. */
export interface Move {
  readonly edge: Edge
  readonly to: BlockNode
}

export interface ShapeChange {
  readonly moves?: readonly Move[]
  readonly dropped?: readonly Edge[]
  readonly leaving?: BlockNode
  /** A node without a backing file, and the one that it is to have. */
  readonly backing?: { readonly of: BlockNode; readonly to: BlockNode }
  /** Whoever has frozen the edges may move them all the same. */
  readonly frozen?: 'heeded' | 'own'
}

function moveEdge({ edge, to }: Move): void {
  edge.node.parents.delete(edge)
  edge.retarget(to)
  to.parents.add(edge)
}

function checkFrozen(edge: Edge, to: BlockNode | undefined): void {
  if (edge.frozen === undefined || edge.node === to) return
  throw new BlockError(
    'BUSY',
    `Cannot change frozen '${edge.name}' link from '${edge.owner?.name ?? ''}' to '${edge.node.name}'`,
    { node: edge.owner?.name, errno: 'EPERM', cause: edge.frozen },
  )
}

/** Refuses a child that stands on its parent. */
export function checkCycle(parent: BlockNode, role: string, child: BlockNode): void {
  if (standsOn(child, parent)) throw loopError(parent.name, role, child)
}

export function checkLoop(edge: Edge, to: BlockNode): void {
  const { owner } = edge
  if (owner && standsOn(to, owner)) throw loopError(owner.name, edge.name, to)
}

function loopError(parent: string, role: string, child: BlockNode): BlockError {
  return new BlockError(
    'INVALID_ARGUMENT',
    `Making '${child.name}' a ${role} child of '${parent}' would create a cycle`,
    { node: parent, errno: 'EINVAL' },
  )
}

/** Whether `below` is the node itself or anything that it stands on. */
function standsOn(node: BlockNode, below: BlockNode): boolean {
  if (node === below) return true
  return [...node.children.values()].some((edge) => standsOn(edge.node, below))
}
