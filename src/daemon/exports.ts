/** The NBD server and what it exports: `nbd-server-*`, `block-export-*`. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Permission } from '../block/permission.ts'
import { BlockError } from '../errors.ts'
import { type ShownBitmap, ShownBitmaps } from '../export/nbd/bitmaps.ts'
import { allocationDepthContext, extentsThroughChain } from '../export/nbd/chain.ts'
import type { NbdServer } from '../export/nbd/server.ts'
import { Writethrough } from '../export/nbd/writethrough.ts'
import type { Edge } from '../graph/edge.ts'
import type { Graph } from '../graph/graph.ts'
import { NBD_MAX_STRING } from '../wire/nbd/constants.ts'
import { listenForNbd, type ServerLimits } from './nbd-listen.ts'
import type { SocketAddress } from './schema/socket-address.ts'

export interface NbdExportOptions {
  readonly id: string
  readonly nodeName: string
  /** What clients ask for; the node's name unless given. */
  readonly name?: string
  readonly description?: string
  readonly writable?: boolean
  /** Every write is on stable storage before it is acknowledged. */
  readonly writethrough?: boolean
  /** Offer the context `qemu:allocation-depth`. */
  readonly allocationDepth?: boolean
  /** Offered as contexts; they are busy while the export is there. */
  /** Looked up when all else is known to be right. */
  readonly bitmaps?: () => readonly ShownBitmap[]
}

export interface BlockExportInfo {
  readonly id: string
  readonly type: 'nbd'
  readonly 'node-name': string
  readonly 'shutting-down': boolean
}

interface Export {
  readonly id: string
  readonly name: string
  readonly edge: Edge
  readonly bitmaps: ShownBitmaps
  removal?: Promise<void>
}

/** Clients that have nothing to wait for are gone sooner: a node is free when the command returns. */
const removalPatienceMs = 250

export class ExportTable implements AsyncDisposable {
  readonly #graph: Graph
  readonly #onDeleted: (id: string) => void
  readonly #exports = new Map<string, Export>()
  #server: NbdServer | undefined

  /** `onDeleted` is called once for each export, when its node is free. */
  constructor(graph: Graph, onDeleted: (id: string) => void) {
    this.#graph = graph
    this.#onDeleted = onDeleted
  }

  get server(): NbdServer | undefined {
    return this.#server
  }

  async startServer(address: SocketAddress, limits: ServerLimits = {}): Promise<void> {
    if (this.#server) throw invalid('NBD server already running')
    this.#server = await listenForNbd(address, limits)
  }

  /** Ends the exports first, the newest before the others. */
  async stopServer(): Promise<void> {
    const server = this.#runningServer()
    for (const { id } of [...this.#exports.values()].reverse()) await this.remove(id, 'hard')
    this.#server = undefined
    await server[Symbol.asyncDispose]()
  }

  async add(options: NbdExportOptions): Promise<void> {
    const { id, nodeName, name = nodeName, writable = false } = options
    this.#checkId(id)
    const node = this.#graph.nodes.get(nodeName)
    if (!node) throw invalid(`Cannot find device='' nor node-name='${nodeName}'`)
    if (writable && node.flags.readOnly) throw invalid('Cannot export read-only node as writable')
    const uses: Permission[] = writable ? ['consistentRead', 'write'] : ['consistentRead']
    const description = 'an unnamed block device'
    let edge = this.#graph.attach(node, { description, uses })
    let bitmaps: ShownBitmaps | undefined
    try {
      const server = this.#runningServer()
      checkLength('export name', name)
      checkLength('description', options.description)
      if (server.exports.has(name)) throw invalid(`NBD server already has export named '${name}'`)
      // The size is told to a client once, when it connects.
      const shares: Permission[] = ['consistentRead', 'write', 'writeUnchanged']
      const former = edge
      edge = this.#graph.attach(node, { description, uses, shares })
      await former[Symbol.asyncDispose]()
      bitmaps = new ShownBitmaps(node, options.bitmaps?.() ?? [], writable)
      server.addExport({ ...exportOf(edge, options, bitmaps), name, writable })
    } catch (error) {
      bitmaps?.release()
      await edge[Symbol.asyncDispose]()
      throw error
    }
    this.#exports.set(id, { id, name, edge, bitmaps })
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
    const server = this.#runningServer()
    if (!found.removal) {
      const removal = this.#remove(found, server, mode)
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
    return [...this.#exports.values()].reverse().map(({ id, edge, removal }) => ({
      id,
      type: 'nbd',
      'node-name': edge.node.name,
      'shutting-down': removal !== undefined,
    }))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#server) await this.stopServer()
  }

  async #remove({ id, name, edge, bitmaps }: Export, server: NbdServer, mode: 'safe' | 'hard') {
    await server.removeExport(name, { mode })
    this.#exports.delete(id)
    bitmaps.release()
    await edge[Symbol.asyncDispose]()
    this.#onDeleted(id)
  }

  #runningServer(): NbdServer {
    if (this.#server) return this.#server
    throw invalid('NBD server not running')
  }

  #checkId(id: string): void {
    if (!/^[A-Za-z][A-Za-z0-9._-]*$/.test(id)) throw invalid('Invalid block export id')
    if (this.#exports.has(id)) throw invalid(`Block export id '${id}' is already in use`)
  }
}

function checkLength(what: string, text = ''): void {
  if (Buffer.byteLength(text) > NBD_MAX_STRING) throw invalid(`${what} '${text}' too long`)
}

function exportOf(edge: Edge, options: NbdExportOptions, bitmaps: ShownBitmaps) {
  return {
    layer: options.writethrough ? new Writethrough(edge) : edge,
    description: options.description,
    contexts: [
      ...(options.allocationDepth ? [allocationDepthContext(edge)] : []),
      ...bitmaps.contexts,
    ],
    chainExtentAt: extentsThroughChain(edge),
  }
}

function invalid(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { errno: 'EINVAL' })
}
