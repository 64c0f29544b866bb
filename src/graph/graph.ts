/**
 * The graph: nodes by name, the edges between them, and every change of its shape. A change
 * happens whole or not at all: the shape is altered and the permissions are worked out anew in one
 * turn of the event loop; if a permission or a lock is refused, the former shape is put back.
 *
 * A node lives as long as somebody uses it, or until `remove` for those that were opened by name.
 * Closing goes from parents to children, so a format can write its last metadata.
 */
import type { BlockDriver, NodeOptions, OpenContext, SecretSource } from '../block/driver.ts'
import { type BlockLayer, neverAborted } from '../block/layer.ts'
import { everyPermission, type Permission } from '../block/permission.ts'
import { BlockError, invalid } from '../errors.ts'
import { switchAccess } from './access.ts'
import { activate, handedOver, inactivate } from './activity.ts'
import { type DrainHandler, describeUser, type Edge } from './edge.ts'
import type { BlockNode } from './node.ts'
import { NodeOpener } from './node-opener.ts'
import { type NodeDefaults, rootDefaults, takeCommonOptions } from './node-options.ts'
import { allowAll, type OpenPolicy } from './open-policy.ts'
import { prepareReopen } from './reopen.ts'
import { GraphShape } from './shape.ts'
import { filteredChild } from './status.ts'

export interface GraphOptions {
  readonly drivers: readonly BlockDriver[]
  /** Decides about files that images name; everything is allowed unless given. */
  readonly policy?: OpenPolicy
  /**
   * Called when an image without a named format looks like none and is to be written as raw. It
   * may warn, or throw to refuse; unless given it is refused, since a guest could write the header
   * of another format into a raw disk and so make the next probe open files of its choice.
   */
  readonly onProbedRaw?: (filename: string) => void
  /** Told what people should know of an image that was opened all the same. */
  readonly onWarning?: (message: string) => void
  /** Where drivers find the secrets that options name; there are none unless given. */
  readonly secrets?: SecretSource
  /** Where drivers find throttle groups; there are none unless given. */
  readonly throttleGroup?: OpenContext['throttleGroup']
  /** Where drivers find the credentials of TLS; there are none unless given. */
  readonly tlsCredentials?: OpenContext['tlsCredentials']
}

/** Who attaches to a node from outside the graph, and for what. */
export interface Attachment {
  /** As messages name it: `an NBD export`, `the source of job 'backup0'`. */
  readonly description: string
  readonly uses: Iterable<Permission>
  /** Everything unless given. */
  readonly shares?: Iterable<Permission>
  /** For users that work on the node without requests of their own passing the edge. */
  readonly drain?: DrainHandler
  /** What the node is to it; `root` unless given. */
  readonly name?: string
  /** It means this very node: when its other users get another one in its place, it stays. */
  readonly stays?: boolean
}

export class Graph implements AsyncDisposable {
  readonly drivers: readonly BlockDriver[]
  readonly secrets: SecretSource | undefined
  readonly #shape = new GraphShape()
  readonly #opener: NodeOpener
  /** Settles when the last change of how nodes are open is done. */
  #turn: Promise<unknown> = Promise.resolve()
  /** Under way, so that users who come meanwhile wait too. */
  readonly #drains = new Set<Drain>()

  constructor(options: GraphOptions) {
    this.drivers = options.drivers
    this.secrets = options.secrets
    this.#opener = new NodeOpener(this.#shape, { ...options, policy: options.policy ?? allowAll })
  }

  get nodes(): ReadonlyMap<string, BlockNode> {
    return this.#shape.nodes
  }

  /** The node of that name; throws `INVALID_ARGUMENT` when there is none. */
  node(name: string): BlockNode {
    return this.#shape.node(name)
  }

  /** Opens a node that stays until `remove`, as `blockdev-add` does. */
  async open(
    options: NodeOptions,
    defaults: Partial<NodeDefaults> = {},
    signal: AbortSignal = neverAborted,
  ): Promise<BlockNode> {
    const lineage = { defaults: { ...rootDefaults, ...defaults }, images: [], signal }
    const node = await this.#opener.open(options, 'root', lineage)
    this.#shape.kept.add(node)
    return node
  }

  /** Opens an image by file name; `options.driver` names its format, which is probed otherwise. */
  async openFile(
    filename: string,
    options: NodeOptions = {},
    defaults: Partial<NodeDefaults> = {},
    signal: AbortSignal = neverAborted,
  ): Promise<BlockNode> {
    return await this.open(this.#opener.withFile(filename, options), defaults, signal)
  }

  /** Adds a node whose layer is made by code rather than by options; it stays until `remove`. */
  async add<L extends BlockLayer>(
    driver: string,
    options: NodeOptions,
    open: (context: OpenContext) => Promise<L>,
  ): Promise<{ node: BlockNode; layer: L }> {
    const { common } = takeCommonOptions(options, rootDefaults)
    const lineage = { defaults: rootDefaults, images: [], signal: neverAborted }
    const opened = await this.#opener.build(driver, common, lineage, open)
    this.#shape.kept.add(opened.node)
    return opened
  }

  /**
   * Attaches a user from outside. Throws `PERMISSION` when others do not share what it uses, and
   * `BUSY` when another process does not. Disposing the edge detaches it.
   */
  attach(node: BlockNode, attachment: Attachment): Edge {
    const permissions = {
      uses: new Set(attachment.uses),
      shares: new Set(attachment.shares ?? everyPermission),
    }
    const user = { description: attachment.description }
    const edge = this.#shape.connect(node, 'root', user, permissions, attachment)
    for (const drain of this.#drains) {
      if (standsOn(node, drain.nodes)) hold(edge, drain)
    }
    return edge
  }

  /** Whether `remove` is for it: it was opened by name, not for another node. */
  isOwned(node: BlockNode): boolean {
    return this.#shape.kept.has(node)
  }

  /** Gives up a node that was opened by name; refused while it is used. */
  async remove(name: string): Promise<void> {
    const node = this.node(name)
    if (!this.#shape.kept.has(node)) {
      throw new BlockError('INVALID_ARGUMENT', `Node ${name} is not owned by the monitor`, {
        node: name,
        errno: 'EINVAL',
      })
    }
    if (node.parents.size > 0) {
      throw new BlockError('BUSY', `Node ${name} is in use`, { node: name, errno: 'EBUSY' })
    }
    this.#shape.kept.delete(node)
    await this.#shape.close(node)
  }

  /**
   * Runs `change` while no request is in flight on `nodes` or anything above them, and new ones
   * from outside the graph wait. `change` must not wait for such a request.
   */
  async drained<T>(nodes: readonly BlockNode[], change: () => T | Promise<T>): Promise<T> {
    const drain: Drain = { nodes: new Set(nodes), held: [], begun: [] }
    const above = withAncestors(nodes)
    for (const each of above) {
      for (const edge of each.parents) if (edge.role === 'root') hold(edge, drain)
    }
    // What is waited for may be held up further down.
    const involved = new Set([...above, ...nodes.flatMap((node) => [...withDescendants(node)])])
    for (const { layer } of involved) layer.drainBegins?.()
    this.#drains.add(drain)
    try {
      await Promise.all(drain.begun)
      // From the top: what arrives below comes from above.
      for (const each of above.toReversed()) await each.idle()
      return await change()
    } finally {
      this.#drains.delete(drain)
      // Those who came late were told, but nobody has waited for them.
      await Promise.allSettled(drain.begun)
      for (const { layer } of involved) layer.drainEnds?.()
      for (const edge of drain.held) {
        edge.drain?.end()
        edge.resume()
      }
    }
  }

  /**
   * Puts each filter, which has `node` as a child, between `node` and all its other users; all of
   * them in one moment. Users that the filter itself stands on stay where they are: the target of
   * copy-before-write may have the source as its backing file. When a permission is refused
   * everything is as before.
   */
  async insertFilters(pairs: readonly FilterPlace[]): Promise<void> {
    await this.drained(
      pairs.map(({ node }) => node),
      () => {
        const moves = pairs.flatMap(({ filter, node }) => {
          const below = withDescendants(filter)
          return [...node.parents]
            .filter(({ owner, stays }) => !stays && !(owner && below.has(owner)))
            .map((edge) => ({ edge, to: filter }))
        })
        this.#shape.change({ moves })
      },
    )
  }

  /** Adds a child to a node that takes any number of them. */
  async addChild(parent: BlockNode, node: BlockNode): Promise<void> {
    const { members } = parent.layer
    if (!members) throw invalid(`The node ${parent.name} does not support adding a child`)
    if (node.parents.size > 0) throw invalid(`The node ${node.name} already has a parent`)
    await this.drained([parent, node], () => {
      const edge = this.#shape.addChild(parent, node, members.nextName())
      members.add(edge)
    })
  }

  /** Takes away a child of such a node; it is closed if nobody else keeps it. */
  async removeChild(parent: BlockNode, name: string): Promise<void> {
    const edge = parent.children.get(name)
    const { members } = parent.layer
    if (!edge) throw invalid(`Node '${parent.name}' does not have child '${name}'`)
    if (!members?.get().includes(name)) {
      throw invalid(`The node ${parent.name} does not support removing a child`)
    }
    members.checkRemove(name)
    await this.drained([parent], () => {
      parent.children.delete(name)
      members.remove(name)
    })
    await edge[Symbol.asyncDispose]()
  }

  /** Gives the users of a filter its filtered child, and closes it; refused while a job works on it. */
  async dropFilter(filter: BlockNode): Promise<void> {
    await this.drained([filter], () => {
      const staying = [...filter.parents].find(({ stays }) => stays)
      if (staying) throw usedAsItIs(filter, staying)
      // Only now: what stood below it may have been taken out in the meantime.
      const below = filteredChild(filter)
      if (!below) throw new TypeError(`${filter.name} is no filter`)
      const moves = [...filter.parents].map((edge) => ({ edge, to: below }))
      this.#shape.change({ moves, leaving: filter })
    })
    this.#shape.kept.delete(filter)
    await this.#shape.close(filter)
  }

  /**
   * Gives a node another backing file, or none. What was the backing file is closed if nobody else
   * keeps it. `record` changes what images say of it, and returns how to change that back; when
   * either is refused, both are as before.
   */
  async setBacking(
    node: BlockNode,
    to: BlockNode | undefined,
    record: () => Promise<() => Promise<void>> = async () => async () => {},
  ): Promise<void> {
    const former = node.children.get('backing')?.node
    const edge = await this.drained([node], async () => {
      const putBack = await record()
      try {
        return this.#shape.setBacking(node, to)
      } catch (error) {
        await putBack()
        throw error
      }
    })
    await edge?.[Symbol.asyncDispose]()
    if (former) await this.#shape.closeUnused(former)
  }

  /**
   * Lets all users of a node, or those that `which` chooses, use another node instead. Whatever
   * nobody uses or keeps afterwards is closed.
   */
  async replace(
    node: BlockNode,
    to: BlockNode,
    which: (edge: Edge) => boolean = () => true,
  ): Promise<void> {
    await this.changed([node, to], (shape) => {
      const moves = [...node.parents]
        .filter((edge) => !edge.stays && which(edge))
        .map((edge) => ({ edge, to }))
      shape.change({ moves })
      return { nodes: [node] }
    })
  }

  /**
   * Changes the shape in one turn while `nodes` are drained, with the primitives of `GraphShape`;
   * then disposes the edges and closes the unused nodes that `change` names. `prepare` comes
   * first, drained already: it may use the nodes, but no edge from outside the graph.
   */
  async changed(
    nodes: readonly BlockNode[],
    change: (shape: GraphShape) => { edges?: readonly Edge[]; nodes?: readonly BlockNode[] },
    prepare: () => Promise<void> = async () => {},
  ): Promise<void> {
    const left = await this.drained(nodes, async () => {
      await prepare()
      return change(this.#shape)
    })
    for (const edge of left.edges ?? []) await edge[Symbol.asyncDispose]()
    for (const node of left.nodes ?? []) await this.#shape.closeUnused(node)
  }

  /** Takes away the mark of a node that stays although nobody uses it. */
  disown(node: BlockNode): void {
    this.#shape.kept.delete(node)
  }

  /**
   * Makes a node writable, with the storage below it, or read-only. When that is refused, by a
   * user, a lock of another process or the file system, everything is as before.
   */
  async setReadOnly(node: BlockNode, readOnly: boolean): Promise<void> {
    if (node.flags.readOnly === readOnly) return
    await this.#inTurn([node], async () => {
      if (node.flags.readOnly !== readOnly) await switchAccess(this.#shape, node, readOnly)
    })
  }

  /**
   * Changes the options of open nodes, all of them or none; each entry holds the complete options
   * of its node, and what it leaves out becomes the default. Throws `INVALID_ARGUMENT` for what
   * cannot change while a node is open.
   */
  async reopen(options: readonly NodeOptions[]): Promise<void> {
    const reopening = prepareReopen(this.#shape, this.drivers, options)
    const dropped = await this.#inTurn(reopening.nodes, () => reopening.run())
    for (const edge of dropped) await edge[Symbol.asyncDispose]()
    // Children that others have taken the place of.
    for (const node of reopening.nodes) await this.#shape.closeUnused(node)
  }

  /**
   * Writes everything out and lets go of the images, for another process to use: of `nodes`, all
   * unless given, and of what only they stand on. Their users are refused until `activate`.
   */
  async inactivate(nodes: Iterable<BlockNode> = this.nodes.values()): Promise<void> {
    const affected = handedOver(nodes, (node) => node.active)
    await this.#inTurn(affected, () => inactivate(this.#shape, affected))
  }

  /** Takes the images back, as another process has left them. Throws `BUSY` while it uses them. */
  async activate(nodes: Iterable<BlockNode> = this.nodes.values()): Promise<void> {
    const affected = handedOver(nodes, (node) => !node.active)
    await this.#inTurn(affected, () => activate(this.#shape, affected))
  }

  /**
   * Drained, and when no other change of how nodes are open is under way: those take several turns
   * of the event loop, and jobs that end make them whenever they like.
   */
  async #inTurn<T>(nodes: readonly BlockNode[], change: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(() => this.drained(nodes, change))
    this.#turn = result.catch(() => {})
    return await result
  }

  /** Closes everything, users first. The first failure is thrown after all is closed. */
  async [Symbol.asyncDispose](): Promise<void> {
    const failures: unknown[] = []
    const attempt = (work: Promise<void>) => work.catch((error) => failures.push(error))
    for (const node of this.#shape.nodes.values()) {
      for (const edge of [...node.parents]) {
        if (edge.role === 'root') await attempt(edge[Symbol.asyncDispose]())
      }
    }
    this.#shape.kept.clear()
    for (const node of [...this.#shape.nodes.values()]) {
      if (node.parents.size === 0) await attempt(this.#shape.close(node))
    }
    if (failures.length > 0) throw failures[0]
  }
}

function usedAsItIs(node: BlockNode, edge: Edge): BlockError {
  const message = `Node '${node.name}' is busy: ${describeUser(edge)} uses it`
  return new BlockError('BUSY', message, { node: node.name, errno: 'EBUSY' })
}

export interface FilterPlace {
  readonly filter: BlockNode
  /** The filter's child, above which it is put. */
  readonly node: BlockNode
}

/** The nodes, then everything above them. */
function withAncestors(nodes: readonly BlockNode[]): BlockNode[] {
  const found = new Set<BlockNode>(nodes)
  for (const each of found) {
    for (const edge of each.parents) if (edge.owner) found.add(edge.owner)
  }
  return [...found]
}

/** The node and everything below it. */
function withDescendants(node: BlockNode): ReadonlySet<BlockNode> {
  const found = new Set<BlockNode>([node])
  for (const each of found) {
    for (const edge of each.children.values()) found.add(edge.node)
  }
  return found
}

function standsOn(node: BlockNode, nodes: ReadonlySet<BlockNode>): boolean {
  return [...withDescendants(node)].some((each) => nodes.has(each))
}

interface Drain {
  readonly nodes: ReadonlySet<BlockNode>
  /** Users whose requests wait until it ends. */
  readonly held: Edge[]
  /** Of users who have more to stop than requests. */
  readonly begun: Promise<void>[]
}

function hold(edge: Edge, drain: Drain): void {
  edge.quiesce()
  drain.held.push(edge)
  if (edge.drain) drain.begun.push(edge.drain.begin())
}
