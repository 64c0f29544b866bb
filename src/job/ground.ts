/**
 * What a job stands on while it runs: its uses of nodes, the operations that it blocks, the chain
 * that it holds together, its filter. All of it is let go at the job's end, in the reverse order.
 */

import type { NodeOptions } from '../block/driver.ts'
import { Filter } from '../block/filter.ts'
import type { BlockLayer, Capabilities } from '../block/layer.ts'
import { allPermissions, type Permission } from '../block/permission.ts'
import type { Operation } from '../graph/blockers.ts'
import { freezeChain } from '../graph/chain.ts'
import type { DrainHandler, Edge } from '../graph/edge.ts'
import type { Graph } from '../graph/graph.ts'
import type { BlockNode } from '../graph/node.ts'
import type { Job, JobType } from './job.ts'

/** What a node is to a job, as QEMU calls it. */
export type JobChild =
  | 'main node'
  | 'source'
  | 'target'
  | 'base'
  | 'intermediate node'
  | 'active node'

const unnamedDevice = 'an unnamed block device'

/** How messages name a job that uses a node. */
export function jobUser(type: JobType, id: string): string {
  return `${type} job '${id}'`
}

/** Id of the job that uses a node by this edge. */
export function jobOf({ user }: Edge): string | undefined {
  return 'node' in user ? undefined : /^\w+ job '(.*)'$/.exec(user.description)?.[1]
}

export class JobGround {
  readonly graph: Graph
  readonly #id: string
  readonly #type: JobType
  readonly #releases: (() => void | Promise<void>)[] = []
  readonly #edges = new Set<Edge>()
  #thaw = () => {}
  #keepsWritable = false
  #filter: BlockNode | undefined
  #job: Job | undefined
  readonly #drains: JobDrain[] = []

  constructor(graph: Graph, id: string, type: JobType) {
    this.graph = graph
    this.#id = id
    this.#type = type
  }

  /** The job, once there is one: it stands still while its nodes are drained, also if they are by now. */
  set job(job: Job) {
    this.#job = job
    for (const drain of this.#drains) drain.join(job)
  }

  get filter(): BlockNode | undefined {
    return this.#filter
  }

  /** Other operations on the nodes, but for those that others refuse, are refused. */
  block(nodes: Iterable<BlockNode>, except: readonly Operation[] = []): void {
    const reason = `block device is in use by block job: ${this.#type}`
    for (const node of nodes) this.#releases.push(node.blockers.add(reason, except))
  }

  freeze(top: BlockNode, base: BlockNode | undefined): void {
    this.#thaw = freezeChain(top, base, `in use by block job: ${this.#type}`)
    this.#releases.push(() => this.#thaw())
  }

  /** Lets the chain's edges be moved, by the job itself, from now on. */
  thaw(): void {
    this.#thaw()
  }

  /**
   * Uses a node, by requests to the node itself: see `JobControl.during`. QEMU's jobs do so themselves, and
   * have a name for what it is to them, or through a block device that has none: the words of messages.
   */
  use(
    node: BlockNode,
    uses: readonly Permission[],
    shares?: readonly Permission[],
    as: JobChild | 'device' = 'main node',
  ): void {
    const drain = new JobDrain(() => this.#job)
    this.#drains.push(drain)
    const edge = this.graph.attach(node, {
      description: as === 'device' ? unnamedDevice : jobUser(this.#type, this.#id),
      name: as === 'device' ? undefined : as,
      uses,
      shares,
      stays: true,
      drain,
    })
    this.#edges.add(edge)
    this.#releases.push(() => edge[Symbol.asyncDispose]())
  }

  /**
   * Makes a node writable for as long as the job stands on it. Where somebody else has come to
   * write to it meanwhile, it stays so.
   */
  async makeWritable(node: BlockNode): Promise<void> {
    if (!node.flags.readOnly) return
    await this.graph.setReadOnly(node, false)
    this.#releases.push(async () => {
      if (!this.#keepsWritable) await this.graph.setReadOnly(node, true).catch(() => {})
    })
  }

  /** What the job has made writable is the live image by now. */
  keepWritable(): void {
    this.#keepsWritable = true
  }

  /** The job's own uses, to be dropped together with a change of the graph. */
  get edges(): readonly Edge[] {
    return [...this.#edges]
  }

  /** Those who use a node, but for the job itself. */
  others(node: BlockNode): Edge[] {
    return [...node.parents].filter((edge) => !edge.stays && !this.#edges.has(edge))
  }

  /** Opens a filter above a node, beside the graph until it is put in place. */
  async addFilter<L extends Filter>(
    driver: string,
    name: string | undefined,
    node: BlockNode,
    make: (next: BlockLayer) => L,
    more: NodeOptions = {},
  ): Promise<L> {
    const options = name === undefined ? more : { ...more, 'node-name': name }
    const { node: filter, layer } = await this.graph.add(driver, options, async (context) =>
      make(await context.child('filtered', node.name)),
    )
    this.#filter = filter
    this.#releases.push(() => this.dropFilter())
    return layer
  }

  /**
   * What is shared of a disk that keeps its size meanwhile. Users from outside the graph may hold the
   * permission to resize it: the job's filter does not let them.
   */
  unresized(node: BlockNode): readonly Permission[] {
    const held = [...node.parents].some(({ role, uses }) => role === 'root' && uses.has('resize'))
    return held ? allPermissions : allPermissions.filter((each) => each !== 'resize')
  }

  /** What the job uses and shares of it, from then on, is what it uses of the disk as a whole. */
  async insertFilter(
    node: BlockNode,
    uses: readonly Permission[] = [],
    shares?: readonly Permission[],
  ): Promise<void> {
    if (!this.#filter) return
    await this.graph.insertFilters([{ filter: this.#filter, node }])
    // Nobody may remove it although nobody may be using it, nor stand on what leaves with the job.
    this.use(this.#filter, uses, shares)
    this.block([this.#filter])
  }

  /** Gives the filter's users what they used before. Idempotent. */
  async dropFilter(): Promise<void> {
    const filter = this.#filter
    this.#filter = undefined
    if (filter) await this.graph.dropFilter(filter)
  }

  /** The filter has been taken out by a change of the graph, and only needs to be closed. */
  filterLeft(): BlockNode | undefined {
    const filter = this.#filter
    this.#filter = undefined
    if (filter) this.graph.disown(filter)
    return filter
  }

  /** Later additions are let go first. The first failure is thrown when all is let go. */
  async release(): Promise<void> {
    let failure: { readonly error: unknown } | undefined
    for (const release of this.#releases.splice(0).reverse()) {
      try {
        await release()
      } catch (error) {
        failure ??= { error }
      }
    }
    if (failure) throw failure.error
  }
}

/** A job stands still while what it uses is drained. There may be none yet when a drain begins. */
export class JobDrain implements DrainHandler {
  readonly #job: () => Job | undefined
  #drains = 0
  /** Of them, those that the job was told of. */
  readonly #held: Job[] = []

  constructor(job: () => Job | undefined) {
    this.#job = job
  }

  async begin(): Promise<void> {
    this.#drains++
    const present = this.#job()
    if (!present) return
    this.#held.push(present)
    await present.hold()
  }

  /** The job goes on when no more drains are left than it was told of. */
  end(): void {
    this.#drains--
    if (this.#held.length > this.#drains) this.#held.pop()?.letGo()
  }

  /** A job that has been made in the middle of drains waits for their end before it does anything. */
  join(job: Job): void {
    while (this.#held.length < this.#drains) {
      this.#held.push(job)
      void job.hold()
    }
  }
}

/** A filter that marks the place of a job, and keeps the size of its disk. */
export class JobFilter extends Filter {
  override get capabilities(): Capabilities {
    return { ...this.next.capabilities, resize: false }
  }
}
