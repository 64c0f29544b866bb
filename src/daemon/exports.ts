/** What the daemon exports, by whatever means: `block-export-*`. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Permission } from '../block/permission.ts'
import { BlockError, invalid } from '../errors.ts'
import type { Edge } from '../graph/edge.ts'
import type { Graph } from '../graph/graph.ts'
import type { BlockNode } from '../graph/node.ts'
import { FuseExports } from './fuse-exports.ts'
import { NbdExports } from './nbd-exports.ts'
import { VhostUserExports } from './vhost-user-exports.ts'

export type ExportType = 'nbd' | 'vhost-user-blk' | 'fuse' | 'vduse-blk'

/** What every export has. */
export interface ExportOptions {
  readonly id: string
  readonly nodeName: string
  readonly writable?: boolean
  /** Every write is on stable storage before it is acknowledged. */
  readonly writethrough?: boolean
}

/** The disk as an export uses it. */
export interface ExportUse {
  readonly node: BlockNode
  /** Everything is shared, unless `attach` has said otherwise. */
  readonly edge: Edge
  readonly writable: boolean
  readonly writethrough: boolean
  /** Uses the disk for more, or shares less of it, from now on. */
  attach(changed: {
    readonly uses?: readonly Permission[]
    readonly shares?: readonly Permission[]
  }): Promise<void>
}

/** A way to export a disk, with the options of one export. */
export interface ExportKind {
  readonly type: ExportType
  start(use: ExportUse): Promise<{
    /** Ends it; `safe` throws `BUSY` while a client uses it. The disk is let go of afterwards. */
    end(mode: 'safe' | 'hard'): Promise<void>
  }>
}

export interface BlockExportInfo {
  readonly id: string
  readonly type: ExportType
  readonly 'node-name': string
  readonly 'shutting-down': boolean
}

interface Export {
  readonly id: string
  readonly type: ExportType
  readonly edge: Edge
  readonly end: (mode: 'safe' | 'hard') => Promise<void>
  removal?: Promise<void>
}

/** What the user of a disk is called in messages. */
const description = 'an unnamed block device'

/** Clients that have nothing to wait for are gone sooner: a node is free when the command returns. */
const removalPatienceMs = 250

export class ExportTable implements AsyncDisposable {
  readonly nbd = new NbdExports()
  readonly fuse: FuseExports
  readonly vhostUser = new VhostUserExports()
  readonly #graph: Graph
  readonly #onDeleted: (id: string) => void
  readonly #exports = new Map<string, Export>()
  /** Ids of those that are being started. */
  readonly #starting = new Set<string>()

  /** `onDeleted` is called once for each export, when its node is free. */
  constructor(graph: Graph, onDeleted: (id: string) => void) {
    this.#graph = graph
    this.#onDeleted = onDeleted
    this.fuse = new FuseExports(graph)
  }

  /** Ends its exports first, the newest before the others. */
  async stopNbdServer(): Promise<void> {
    this.nbd.runningServer()
    const those = [...this.#exports.values()].filter(({ type }) => type === 'nbd')
    for (const { id } of those.reverse()) await this.remove(id, 'hard')
    await this.nbd.stop()
  }

  async add(
    { id, nodeName, writable = false, writethrough = false }: ExportOptions,
    kind: ExportKind,
  ): Promise<void> {
    this.#checkId(id)
    const node = this.#graph.nodes.get(nodeName)
    if (!node) throw invalid(`Cannot find device='' nor node-name='${nodeName}'`)
    if (writable && node.flags.readOnly) throw invalid('Cannot export read-only node as writable')
    const use = new Use(this.#graph, node, writable, writethrough)
    this.#starting.add(id)
    try {
      const { end } = await kind.start(use)
      this.#exports.set(id, { id, type: kind.type, edge: use.edge, end })
    } catch (error) {
      await use.edge[Symbol.asyncDispose]()
      throw error
    } finally {
      this.#starting.delete(id)
    }
  }

  /**
   * As QMP asks for it: clients that do not take their last replies, or requests that take long,
   * are not waited for. Then the export is gone when `onDeleted` is called; who stops the server
   * waits for that.
   */
  async requestRemoval(id: string, mode: 'safe' | 'hard'): Promise<void> {
    const removal = this.remove(id, mode)
    if (mode === 'safe') return await removal
    const patience = new AbortController()
    const { signal } = patience
    const waited = sleep(removalPatienceMs, undefined, { signal }).catch(() => {})
    await Promise.race([removal, waited]).finally(() => patience.abort())
    // Whatever comes of it later, whoever stops the server hears it.
    removal.catch(() => {})
  }

  /** Settles when the node is free. `safe` throws `BUSY` while a client uses the export. */
  async remove(id: string, mode: 'safe' | 'hard'): Promise<void> {
    const found = this.#exports.get(id)
    if (!found) throw invalid(`Export '${id}' is not found`)
    if (!found.removal) {
      const removal = this.#remove(found, mode)
      found.removal = removal
      await removal.catch((error) => {
        found.removal = undefined
        throw error instanceof BlockError && error.code === 'BUSY'
          ? new BlockError('BUSY', `export '${id}' still in use`, { errno: 'EBUSY', cause: error })
          : error
      })
    }
    await found.removal
  }

  /** The newest first, as QEMU lists them. */
  list(): BlockExportInfo[] {
    return [...this.#exports.values()].reverse().map(({ id, type, edge, removal }) => ({
      id,
      type,
      'node-name': edge.node.name,
      'shutting-down': removal !== undefined,
    }))
  }

  /** The oldest first, as QEMU's daemon does when it ends. */
  async [Symbol.asyncDispose](): Promise<void> {
    for (const id of [...this.#exports.keys()]) await this.remove(id, 'hard')
    if (this.nbd.server) await this.nbd.stop()
  }

  async #remove({ id, edge, end }: Export, mode: 'safe' | 'hard'): Promise<void> {
    await end(mode)
    this.#exports.delete(id)
    await edge[Symbol.asyncDispose]()
    this.#onDeleted(id)
  }

  #checkId(id: string): void {
    if (!/^[A-Za-z][A-Za-z0-9._-]*$/.test(id)) throw invalid('Invalid block export id')
    if (this.#exports.has(id) || this.#starting.has(id)) {
      throw invalid(`Block export id '${id}' is already in use`)
    }
  }
}

class Use implements ExportUse {
  readonly node: BlockNode
  readonly writable: boolean
  readonly writethrough: boolean
  readonly #graph: Graph
  readonly #uses: readonly Permission[]
  #edge: Edge

  constructor(graph: Graph, node: BlockNode, writable: boolean, writethrough: boolean) {
    this.node = node
    this.writable = writable
    this.writethrough = writethrough
    this.#graph = graph
    this.#uses = writable ? ['consistentRead', 'write'] : ['consistentRead']
    this.#edge = graph.attach(node, { description, uses: this.#uses })
  }

  get edge(): Edge {
    return this.#edge
  }

  async attach({ uses = [], shares }: Parameters<ExportUse['attach']>[0]): Promise<void> {
    const former = this.#edge
    const all = [...this.#uses, ...uses]
    this.#edge = this.#graph.attach(this.node, { description, uses: all, shares })
    await former[Symbol.asyncDispose]()
  }
}
