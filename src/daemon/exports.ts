/** The NBD server and what it exports: `nbd-server-*`, `block-export-*`. */
import { BlockError } from '../errors.ts'
import { type ShownBitmap, ShownBitmaps } from '../export/nbd/bitmaps.ts'
import { allocationDepthContext, extentsThroughChain } from '../export/nbd/chain.ts'
import { NbdServer, type NbdServerOptions } from '../export/nbd/server.ts'
import { Writethrough } from '../export/nbd/writethrough.ts'
import type { Edge } from '../graph/edge.ts'
import type { Graph } from '../graph/graph.ts'
import { bindError, portError } from './bind-error.ts'
import { resolveInet } from './chardev/socket-address.ts'
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

/** Whom the server serves: so many at a time, and only those with certificates. */
export type ServerLimits = Pick<NbdServerOptions, 'maxConnections' | 'tls' | 'authorise'>

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
    this.#server = await listen(address, limits)
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
    if (writable && node.readOnly) throw invalid('Cannot export read-only node as writable')
    const edge = this.#graph.attach(node, {
      description: 'an unnamed block device',
      uses: writable ? ['consistentRead', 'write'] : ['consistentRead'],
      // The size is told to a client once, when it connects.
      shares: ['consistentRead', 'write', 'writeUnchanged'],
    })
    let bitmaps: ShownBitmaps | undefined
    try {
      const server = this.#runningServer()
      if (server.exports.has(name)) throw invalid(`NBD server already has export named '${name}'`)
      bitmaps = new ShownBitmaps(node, options.bitmaps?.() ?? [], writable)
      server.addExport({ ...exportOf(edge, options, bitmaps), name, writable })
    } catch (error) {
      bitmaps?.release()
      await edge[Symbol.asyncDispose]()
      throw error
    }
    this.#exports.set(id, { id, name, edge, bitmaps })
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

async function listen(address: SocketAddress, limits: ServerLimits): Promise<NbdServer> {
  const where = await listenOptions(address)
  try {
    return await NbdServer.listen({ ...where, ...limits })
  } catch (error) {
    throw address.type === 'inet' ? portError(error) : bindError(error, where.path ?? 'fd')
  }
}

/** Refuses, by name, what our server has no means for. */
async function listenOptions(address: SocketAddress): Promise<NbdServerOptions> {
  switch (address.type) {
    case 'unix':
      if (address.abstract) throw unsupported('abstract')
      return { path: address.path }
    case 'inet': {
      if (address.to !== undefined) throw unsupported('to')
      const { host, port } = await resolveInet(address, '0.0.0.0')
      return { host, port }
    }
    case 'fd':
      if (/^\d{1,9}$/.test(address.str)) return { fd: Number(address.str) }
      throw invalid(`'${address.str}' is not the number of a descriptor`)
    case 'vsock':
      throw unsupported('vsock')
  }
}

function unsupported(name: string): BlockError {
  return new BlockError('UNSUPPORTED', `Parameter '${name}': not supported for an NBD server`, {
    errno: 'ENOTSUP',
  })
}

function invalid(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { errno: 'EINVAL' })
}
