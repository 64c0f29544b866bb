/** The NBD server of the daemon, and what it exports. */
import { invalid } from '../errors.ts'
import { extentsThroughChain } from '../export/chain-extents.ts'
import { type ShownBitmap, ShownBitmaps } from '../export/nbd/bitmaps.ts'
import { allocationDepthContext } from '../export/nbd/chain.ts'
import type { NbdServer } from '../export/nbd/server.ts'
import { endsWithinSector, inWholeSectors } from '../export/nbd/whole-sectors.ts'
import { Writethrough } from '../export/nbd/writethrough.ts'
import type { Edge } from '../graph/edge.ts'
import { NBD_MAX_STRING } from '../wire/nbd/constants.ts'
import type { ExportKind, ExportUse } from './exports.ts'
import { listenForNbd, type ServerLimits } from './nbd-listen.ts'
import type { SocketAddress } from './schema/socket-address.ts'

export interface NbdExportOptions {
  /** What clients ask for; the node's name unless given. */
  readonly name?: string
  readonly description?: string
  /** Offer the context `qemu:allocation-depth`. */
  readonly allocationDepth?: boolean
  /** Offered as contexts; they are busy while the export is there. Looked up when all else is known to be right. */
  readonly bitmaps?: () => readonly ShownBitmap[]
}

/** There is one server, which may be absent. */
export class NbdExports {
  #server: NbdServer | undefined

  get server(): NbdServer | undefined {
    return this.#server
  }

  async start(address: SocketAddress, limits: ServerLimits = {}): Promise<void> {
    if (this.#server) throw invalid('NBD server already running')
    this.#server = await listenForNbd(address, limits)
  }

  /** Its exports have been ended. */
  async stop(): Promise<void> {
    const server = this.runningServer()
    this.#server = undefined
    await server[Symbol.asyncDispose]()
  }

  runningServer(): NbdServer {
    if (this.#server) return this.#server
    throw invalid('NBD server not running')
  }

  /** An export that is to be added to the server. */
  export(options: NbdExportOptions): ExportKind {
    return {
      type: 'nbd',
      start: (use) => this.#add(use, options),
    }
  }

  async #add(use: ExportUse, options: NbdExportOptions) {
    const { node, writable, writethrough } = use
    const { name = node.name, description } = options
    const server = this.runningServer()
    checkLength('export name', name)
    checkLength('description', description)
    if (server.exports.has(name)) throw invalid(`NBD server already has export named '${name}'`)
    // The size is told to a client once, when it connects.
    await use.attach({
      uses: writable && endsWithinSector(node) ? ['resize'] : [],
      shares: ['consistentRead', 'write', 'writeUnchanged'],
    })
    const { edge } = use
    const bitmaps = new ShownBitmaps(node, options.bitmaps?.() ?? [], writable)
    try {
      const disk = inWholeSectors(edge)
      const layer = writethrough ? new Writethrough(disk) : disk
      const contexts = [...depthOf(edge, options), ...bitmaps.contexts]
      const chainExtentAt = extentsThroughChain(edge)
      server.addExport({ layer, description, contexts, chainExtentAt, name, writable })
    } catch (error) {
      bitmaps.release()
      throw error
    }
    return {
      end: async (mode: 'safe' | 'hard') => {
        await server.removeExport(name, { mode })
        bitmaps.release()
      },
    }
  }
}

function depthOf(edge: Edge, { allocationDepth }: NbdExportOptions) {
  return allocationDepth ? [allocationDepthContext(edge)] : []
}

function checkLength(what: string, text = ''): void {
  if (Buffer.byteLength(text) > NBD_MAX_STRING) throw invalid(`${what} '${text}' too long`)
}
