/**
 * The graph: nodes by name, the edges between them, and every change of its shape. A change
 * happens whole or not at all: the shape is altered and the permissions are worked out anew in one
 * turn of the event loop; if a permission or a lock is refused, the former shape is put back.
 *
 * A node lives as long as somebody uses it, or until `remove` for those that were opened by name.
 * Closing goes from parents to children, so a format can write its last metadata.
 */
import type { BlockDriver, NodeOptions, NodeReference, OpenContext } from '../block/driver.ts'
import {
  type BlockLayer,
  type ChildRole,
  everyPermission,
  neverAborted,
  noPermission,
  type Permission,
  type Permissions,
  permissionSet,
} from '../block/layer.ts'
import { missing } from '../block/options.ts'
import { BlockError, errnoOf, inContext } from '../errors.ts'
import { type DrainHandler, Edge, type EdgeUser } from './edge.ts'
import { optionsOfFilename, resolveRecorded } from './filename.ts'
import { BlockNode, type NodeSettings } from './node.ts'
import {
  type CommonOptions,
  childDefaults,
  type NodeDefaults,
  nested,
  rootDefaults,
  takeCommonOptions,
} from './node-options.ts'
import { allowAll, type OpenPolicy } from './open-policy.ts'
import { refreshPermissions } from './permissions.ts'
import { probeFormat } from './probe.ts'

/** Longest chain of images that name each other. */
const maxChain = 200

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
}

interface Lineage {
  readonly defaults: NodeDefaults
  /** Names of the images that led here, outermost first. */
  readonly images: readonly string[]
  readonly signal: AbortSignal
}

export class Graph implements AsyncDisposable {
  readonly #drivers: readonly BlockDriver[]
  readonly #policy: OpenPolicy
  readonly #onProbedRaw: ((filename: string) => void) | undefined
  readonly #nodes = new Map<string, BlockNode>()
  /** Nodes that stay although nobody uses them. */
  readonly #kept = new Set<BlockNode>()
  /** Names of nodes that are being opened or closed. */
  readonly #reserved = new Set<string>()
  #counter = 0

  constructor(options: GraphOptions) {
    this.#drivers = options.drivers
    this.#policy = options.policy ?? allowAll
    this.#onProbedRaw = options.onProbedRaw
  }

  get nodes(): ReadonlyMap<string, BlockNode> {
    return this.#nodes
  }

  get drivers(): readonly BlockDriver[] {
    return this.#drivers
  }

  /** The node of that name; throws `INVALID_ARGUMENT` when there is none. */
  node(name: string): BlockNode {
    const node = this.#nodes.get(name)
    if (node) return node
    throw new BlockError(
      'INVALID_ARGUMENT',
      `Cannot find device='${name}' nor node-name='${name}'`,
      { node: name, errno: 'ENOENT' },
    )
  }

  /** Opens a node that stays until `remove`, as `blockdev-add` does. */
  async open(
    options: NodeOptions,
    defaults: Partial<NodeDefaults> = {},
    signal: AbortSignal = neverAborted,
  ): Promise<BlockNode> {
    const lineage = { defaults: { ...rootDefaults, ...defaults }, images: [], signal }
    const node = await this.#open(options, 'root', lineage)
    this.#kept.add(node)
    return node
  }

  /** Opens an image by file name; `options.driver` names its format, which is probed otherwise. */
  async openFile(
    filename: string,
    options: NodeOptions = {},
    defaults: Partial<NodeDefaults> = {},
    signal: AbortSignal = neverAborted,
  ): Promise<BlockNode> {
    return await this.open(this.#withFile(filename, options), defaults, signal)
  }

  /** Adds a node whose layer is made by code rather than by options; it stays until `remove`. */
  async add<L extends BlockLayer>(
    driver: string,
    options: NodeOptions,
    open: (context: OpenContext) => Promise<L>,
  ): Promise<{ node: BlockNode; layer: L }> {
    const { common } = takeCommonOptions(options, rootDefaults)
    const lineage = { defaults: rootDefaults, images: [], signal: neverAborted }
    const opened = await this.#build(driver, common, lineage, open)
    this.#kept.add(opened.node)
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
    return this.#connect(node, 'root', user, permissions, attachment.drain)
  }

  /** Gives up a node that was opened by name; refused while it is used. */
  async remove(name: string): Promise<void> {
    const node = this.node(name)
    if (!this.#kept.has(node)) {
      throw new BlockError('INVALID_ARGUMENT', `Node ${name} is not owned by the monitor`, {
        node: name,
        errno: 'EINVAL',
      })
    }
    if (node.parents.size > 0) {
      throw new BlockError('BUSY', `Node ${name} is in use`, { node: name, errno: 'EBUSY' })
    }
    this.#kept.delete(node)
    await this.#close(node)
  }

  /**
   * Runs `change` while no request is in flight on `nodes` or anything above them, and new ones
   * from outside the graph wait. `change` must not wait for such a request.
   */
  async drained<T>(nodes: readonly BlockNode[], change: () => T | Promise<T>): Promise<T> {
    const above = withAncestors(nodes)
    const roots = above.flatMap((each) => [...each.parents]).filter((edge) => edge.role === 'root')
    for (const edge of roots) edge.quiesce()
    try {
      await Promise.all(roots.map((edge) => edge.drain?.begin()))
      // From the top: what arrives below comes from above.
      for (const each of above.toReversed()) await each.idle()
      return await change()
    } finally {
      for (const edge of roots) {
        edge.drain?.end()
        edge.resume()
      }
    }
  }

  /**
   * Puts each filter, which has `node` as a child, between `node` and all its other users; all of
   * them in one moment. When a permission is refused everything is as before.
   */
  async insertFilters(pairs: readonly FilterPlace[]): Promise<void> {
    await this.drained(
      pairs.map(({ node }) => node),
      () => {
        const moves = pairs.flatMap(({ filter, node }) => {
          const own = new Set(filter.children.values())
          return [...node.parents]
            .filter((edge) => !own.has(edge))
            .map((edge) => ({ edge, to: filter }))
        })
        this.#retarget(moves)
      },
    )
  }

  /** Gives the users of a filter its filtered child, and closes it. */
  async dropFilter(filter: BlockNode): Promise<void> {
    const below = filter.children.get('file')?.node
    if (!below) throw new TypeError(`${filter.name} is no filter`)
    const moves = [...filter.parents].map((edge) => ({ edge, to: below }))
    await this.drained([filter], () => this.#retarget(moves, filter))
    this.#kept.delete(filter)
    await this.#close(filter)
  }

  /** Closes everything, users first. The first failure is thrown after all is closed. */
  async [Symbol.asyncDispose](): Promise<void> {
    const failures: unknown[] = []
    const attempt = (work: Promise<void>) => work.catch((error) => failures.push(error))
    for (const node of this.#nodes.values()) {
      for (const edge of [...node.parents]) {
        if (edge.role === 'root') await attempt(edge[Symbol.asyncDispose]())
      }
    }
    this.#kept.clear()
    for (const node of [...this.#nodes.values()]) {
      if (node.parents.size === 0) await attempt(this.#close(node))
    }
    if (failures.length > 0) throw failures[0]
  }

  // --- opening

  async #open(given: NodeOptions, role: ChildRole | 'root', lineage: Lineage): Promise<BlockNode> {
    const options = nested(given)
    if (options.driver === undefined) return await this.#openUnnamed(options, role, lineage)
    const { common, rest } = takeCommonOptions(options, lineage.defaults)
    const driver = this.#drivers.find((each) => each.name === common.driver)
    if (!driver) {
      throw new BlockError('INVALID_ARGUMENT', `Unknown driver '${common.driver}'`, {
        errno: 'EINVAL',
      })
    }
    const parsed = driver.parse(rest)
    const open = (attempt: CommonOptions) =>
      this.#build(driver.name, attempt, lineage, (context) => driver.open(parsed, context))
    try {
      return (await open(common)).node
    } catch (error) {
      const forbidden = ['EACCES', 'EROFS', 'EPERM'].includes(errnoOf(error) ?? '')
      if (!forbidden || common.readOnly || !common.autoReadOnly) throw error
      return (await open({ ...common, readOnly: true })).node
    }
  }

  /** Options without a driver: by file name for storage, by probing for everything else. */
  async #openUnnamed(
    options: NodeOptions,
    role: ChildRole | 'root',
    lineage: Lineage,
  ): Promise<BlockNode> {
    const { filename, ...others } = options
    if (role === 'file' || role === 'data-file') {
      if (typeof filename !== 'string') throw missing('driver')
      return await this.#open({ ...this.#protocolOptions(filename), ...others }, role, lineage)
    }
    if (typeof filename === 'string') {
      return await this.#open(this.#withFile(filename, others), role, lineage)
    }
    if (options.file === undefined) throw missing('driver')
    return await this.#probe(options, role, lineage)
  }

  async #probe(
    options: NodeOptions,
    role: ChildRole | 'root',
    lineage: Lineage,
  ): Promise<BlockNode> {
    const { common } = takeCommonOptions(options, lineage.defaults)
    const inherited = { ...lineage, defaults: childDefaults('file', common) }
    const file = await this.#resolve(options.file as NodeReference, 'file', inherited)
    const hold = this.attach(file, { description: 'format probing', uses: ['consistentRead'] })
    try {
      const driver = await probeFormat(this.#drivers, hold)
      const guarded = driver === 'raw' && !common.readOnly
      if (guarded) this.#meetProbedRaw(file.layer.image?.filename ?? file.name)
      const probed = guarded ? { 'x-probed': true } : {}
      return await this.#open({ ...options, ...probed, driver, file: file.name }, role, lineage)
    } finally {
      await hold[Symbol.asyncDispose]()
    }
  }

  #meetProbedRaw(filename: string): void {
    if (!this.#onProbedRaw) {
      throw new BlockError(
        'INVALID_ARGUMENT',
        `${filename} looks like a raw image; to write to it, say so with driver 'raw'`,
        { path: filename, errno: 'EINVAL' },
      )
    }
    this.#onProbedRaw(filename)
  }

  #withFile(filename: string, options: NodeOptions): NodeOptions {
    const storage = this.#protocolOptions(filename)
    if (!filename.startsWith('json:')) return { ...options, file: storage }
    return storage.driver === undefined || options.driver === undefined
      ? { ...storage, ...options }
      : { ...options, file: storage }
  }

  #protocolOptions(filename: string): NodeOptions {
    return optionsOfFilename(filename, this.#drivers)
  }

  async #resolve(
    reference: NodeReference | BlockNode,
    role: ChildRole,
    lineage: Lineage,
  ): Promise<BlockNode> {
    if (typeof reference === 'string') return this.node(reference)
    return await this.#open(reference as NodeOptions, role, lineage)
  }

  async #build<L extends BlockLayer>(
    driver: string,
    common: CommonOptions,
    lineage: Lineage,
    open: (context: OpenContext) => Promise<L>,
  ): Promise<{ node: BlockNode; layer: L }> {
    const name = this.#reserve(common.nodeName)
    const children = new Map<string, Edge>()
    try {
      const layer = await open(this.#context(name, common, lineage, children))
      const settings: NodeSettings = { ...common, name, driver, flags: common }
      const node = new BlockNode(settings, layer)
      for (const [child, edge] of children) {
        node.children.set(child, edge)
        edge.owner = node
      }
      this.#nodes.set(name, node)
      refreshPermissions(this.#nodes.values())
      return { node, layer }
    } catch (error) {
      this.#nodes.delete(name)
      for (const edge of children.values()) await edge[Symbol.asyncDispose]().catch(() => {})
      throw error
    } finally {
      this.#reserved.delete(name)
    }
  }

  #context(
    name: string,
    common: CommonOptions,
    lineage: Lineage,
    children: Map<string, Edge>,
  ): OpenContext {
    const connect = async (role: ChildRole, reference: NodeReference, images = lineage.images) => {
      const inherited = { ...lineage, images, defaults: childDefaults(role, common) }
      const child = await this.#resolve(reference, role, inherited)
      try {
        const edge = this.#connect(child, role, { node: name }, openingPermissions(role, common))
        children.set(edge.name, edge)
        return edge
      } catch (error) {
        await this.#closeUnused(child)
        throw error
      }
    }
    return {
      name,
      flags: common,
      signal: lineage.signal,
      child: connect,
      implied: async (role, recorded, format) => {
        const image = children.get('file')?.image?.filename
        const filename = resolveRecorded(recorded, image)
        const images = image === undefined ? lineage.images : [...lineage.images, image]
        checkChain(images, filename)
        await this.#policy({ role, filename, recorded, format, image })
        const options = this.#withFile(filename, format === undefined ? {} : { driver: format })
        try {
          return await connect(role, options, images)
        } catch (error) {
          throw role === 'backing' ? inContext('Could not open backing file', error) : error
        }
      },
    }
  }

  #reserve(wanted: string | undefined): string {
    if (wanted === undefined) {
      let name: string
      do name = `#block${String(this.#counter++).padStart(3, '0')}`
      while (this.#nodes.has(name))
      this.#reserved.add(name)
      return name
    }
    if (this.#nodes.has(wanted) || this.#reserved.has(wanted)) {
      throw new BlockError('INVALID_ARGUMENT', `Duplicate nodes with node-name='${wanted}'`, {
        node: wanted,
        errno: 'EINVAL',
      })
    }
    this.#reserved.add(wanted)
    return wanted
  }

  // --- edges

  #connect(
    node: BlockNode,
    role: ChildRole | 'root',
    user: EdgeUser,
    wants: Permissions,
    drain?: DrainHandler,
  ): Edge {
    const release = (edge: Edge) => this.#disconnect(edge)
    const edge = new Edge(node, { role, user, ...wants, drain, release })
    node.parents.add(edge)
    try {
      refreshPermissions(this.#nodes.values())
    } catch (error) {
      node.parents.delete(edge)
      throw error
    }
    return edge
  }

  async #disconnect(edge: Edge): Promise<void> {
    const { node } = edge
    node.parents.delete(edge)
    await this.#closeUnused(node)
    refreshPermissions(this.#nodes.values())
  }

  async #closeUnused(node: BlockNode): Promise<void> {
    if (node.parents.size === 0 && !this.#kept.has(node)) await this.#close(node)
  }

  /** Closes a node without users, then those of its children that nobody else uses. */
  async #close(node: BlockNode): Promise<void> {
    if (this.#nodes.get(node.name) !== node) return
    this.#nodes.delete(node.name)
    this.#reserved.add(node.name)
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

  /**
   * Moves edges to other nodes, or leaves them where they are and throws. A filter that is
   * `leaving` holds its children no longer, so nothing of it conflicts with its former users.
   */
  #retarget(moves: readonly Move[], leaving?: BlockNode): void {
    const back = moves.map(({ edge }) => ({ edge, to: edge.node }))
    const held = [...(leaving?.children.values() ?? [])]
    for (const move of moves) moveEdge(move)
    for (const edge of held) edge.node.parents.delete(edge)
    try {
      refreshPermissions(this.#nodes.values())
    } catch (error) {
      for (const move of back) moveEdge(move)
      for (const edge of held) edge.node.parents.add(edge)
      throw error
    }
  }
}

interface Move {
  readonly edge: Edge
  readonly to: BlockNode
}

export interface FilterPlace {
  readonly filter: BlockNode
  /** The filter's child, above which it is put. */
  readonly node: BlockNode
}

function moveEdge({ edge, to }: Move): void {
  edge.node.parents.delete(edge)
  edge.retarget(to)
  to.parents.add(edge)
}

/** What a parent needs of a child while it opens; worked out anew once it has users. */
function openingPermissions(role: ChildRole, flags: CommonOptions): Permissions {
  if (role !== 'file' && role !== 'data-file') {
    return { uses: noPermission, shares: everyPermission }
  }
  const uses = flags.readOnly
    ? permissionSet('consistentRead')
    : permissionSet('consistentRead', 'write', 'resize')
  if (flags.forceShare) return { uses, shares: everyPermission }
  return { uses, shares: permissionSet('consistentRead', 'writeUnchanged') }
}

function checkChain(images: readonly string[], filename: string): void {
  if (images.includes(filename)) {
    throw new BlockError('CORRUPT_IMAGE', `Backing file '${filename}' creates an infinite loop.`, {
      path: images[0],
      errno: 'EINVAL',
    })
  }
  if (images.length > maxChain) {
    throw new BlockError('UNSUPPORTED', `a chain of more than ${maxChain} images is refused`, {
      path: images[0],
      errno: 'ELOOP',
    })
  }
}

/** The nodes, then everything above them. */
function withAncestors(nodes: readonly BlockNode[]): BlockNode[] {
  const found = new Set<BlockNode>(nodes)
  for (const each of found) {
    for (const edge of each.parents) if (edge.owner) found.add(edge.owner)
  }
  return [...found]
}
