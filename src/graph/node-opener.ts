/**
 * From options to open nodes: drivers by name or by probing, children for drivers, and what images
 * name through the open policy. A failure closes whatever was opened on the way.
 */
import { statSync } from 'node:fs'
import type { DirtyBitmap } from '../bitmap/dirty-bitmap.ts'
import { checkUsable } from '../bitmap/usable.ts'
import type {
  BlockDriver,
  NodeOptions,
  NodeReference,
  OpenContext,
  OpenFlags,
  SecretSource,
} from '../block/driver.ts'
import type { BlockLayer } from '../block/layer.ts'
import { missing, UnknownOption } from '../block/options.ts'
import {
  type ChildRole,
  everyPermission,
  noPermission,
  type Permissions,
  permissionSet,
} from '../block/permission.ts'
import { BlockError, errnoOf, inContext, invalid } from '../errors.ts'
import { findBitmap } from './bitmap-actions.ts'
import { probeChain } from './chain-probe.ts'
import type { Edge } from './edge.ts'
import { hasProtocol, optionsOfFilename, resolveRecorded } from './filename.ts'
import { BlockNode, type NodeSettings } from './node.ts'
import {
  type CommonOptions,
  checkCommonOptions,
  childDefaults,
  type NodeDefaults,
  nested,
  takeCommonOptions,
} from './node-options.ts'
import type { OpenPolicy } from './open-policy.ts'
import { targetPermissions } from './permissions.ts'
import { loadBitmaps } from './persistent-bitmaps.ts'
import { probeFormat } from './probe.ts'
import type { GraphShape } from './shape.ts'

/** Longest chain of images that name each other. */
const maxChain = 200

export interface OpenerSettings {
  readonly drivers: readonly BlockDriver[]
  readonly policy: OpenPolicy
  /** See `GraphOptions`. */
  readonly onProbedRaw?: (filename: string) => void
  readonly onWarning?: (message: string) => void
  readonly secrets?: SecretSource
  readonly throttleGroup?: OpenContext['throttleGroup']
  readonly tlsCredentials?: OpenContext['tlsCredentials']
}

/** What an opening inherits from those above it. */
export interface Lineage {
  readonly defaults: NodeDefaults
  /** Names of the images that led here, outermost first. */
  readonly images: readonly string[]
  readonly signal: AbortSignal
}

/** What a node that is being opened has so far. */
interface Opening {
  readonly name: string
  readonly common: CommonOptions
  readonly flags: OpenFlags
  readonly lineage: Lineage
  readonly children: Map<string, Edge>
  readonly known: BlockDriver | undefined
}

export class NodeOpener {
  /** Places taken in lists of nodes. */
  #count = 0
  readonly #shape: GraphShape
  readonly #drivers: readonly BlockDriver[]
  readonly #policy: OpenPolicy
  readonly #onProbedRaw: ((filename: string) => void) | undefined
  readonly #onWarning: ((message: string) => void) | undefined
  readonly #secrets: SecretSource | undefined
  readonly #throttleGroup: OpenContext['throttleGroup']
  readonly #tlsCredentials: OpenContext['tlsCredentials']

  constructor(shape: GraphShape, settings: OpenerSettings) {
    this.#shape = shape
    this.#drivers = settings.drivers
    this.#policy = settings.policy
    this.#onProbedRaw = settings.onProbedRaw
    this.#onWarning = settings.onWarning
    this.#secrets = settings.secrets
    this.#throttleGroup = settings.throttleGroup
    this.#tlsCredentials = settings.tlsCredentials
  }

  /** Opens a node, or the whole tree of nodes that its options describe. */
  async open(given: NodeOptions, role: ChildRole | 'root', lineage: Lineage): Promise<BlockNode> {
    const options = nested(given)
    if (options.driver === undefined) return await this.#openUnnamed(options, role, lineage)
    const { common, rest } = takeCommonOptions(options, lineage.defaults)
    const driver = this.#drivers.find((each) => each.name === common.driver)
    if (!driver) {
      throw invalid(`Unknown driver '${common.driver}'`)
    }
    const open = (attempt: CommonOptions) => this.#openDriver(driver, rest, attempt, role, lineage)
    try {
      return await open(common)
    } catch (error) {
      const forbidden = ['EACCES', 'EROFS', 'EPERM'].includes(errnoOf(error) ?? '')
      if (!forbidden || common.readOnly || !common.autoReadOnly) throw error
      return await open({ ...common, readOnly: true })
    }
  }

  /**
   * In QEMU's order, which tells what is wrong first: the `file` of what stands on one is opened before
   * the node's own options are looked at, and those that every node has before the driver's.
   */
  async #openDriver(
    driver: BlockDriver,
    options: NodeOptions,
    common: CommonOptions,
    role: ChildRole | 'root',
    lineage: Lineage,
  ): Promise<BlockNode> {
    const opened = await this.#openFile(options.file, common, lineage)
    const rest = opened ? { ...options, file: opened.name } : options
    try {
      const { node } = await this.build(
        driver.name,
        common,
        lineage,
        (context) => driver.open(parseOptions(driver, rest, role), context),
        options,
      )
      return node
    } catch (error) {
      if (opened) await this.#shape.closeUnused(opened).catch(() => {})
      throw error
    }
  }

  /** The node that has to be opened for it, if any; one that is named has to be there. */
  async #openFile(
    file: unknown,
    common: CommonOptions,
    lineage: Lineage,
  ): Promise<BlockNode | undefined> {
    if (typeof file === 'string') this.#shape.node(file)
    if (typeof file !== 'object' || file === null) return undefined
    const inherited = { ...lineage, defaults: childDefaults('file', common) }
    return await this.open(file as NodeOptions, 'file', inherited)
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
      return await this.open({ ...this.#protocolOptions(filename), ...others }, role, lineage)
    }
    if (typeof filename === 'string') {
      return await this.open(this.withFile(filename, others), role, lineage)
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
    const wants = { uses: permissionSet('consistentRead'), shares: everyPermission }
    const hold = this.#shape.connect(file, 'root', { description: 'format probing' }, wants)
    try {
      const driver = await probeFormat(this.#drivers, hold)
      const guarded = driver === 'raw' && !common.readOnly
      if (guarded) this.#meetProbedRaw(file.layer.image?.filename ?? file.name)
      const probed = guarded ? { 'x-probed': true } : {}
      return await this.open({ ...options, ...probed, driver, file: file.name }, role, lineage)
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

  /** Options of an image by file name. */
  withFile(filename: string, options: NodeOptions): NodeOptions {
    const storage = this.#protocolOptions(filename)
    if (!filename.startsWith('json:')) return { ...options, file: storage }
    // It may describe the whole image, its format included.
    const whole = options.driver === undefined || options.driver === storage.driver
    return storage.driver === undefined || whole
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
    if (typeof reference === 'string') return this.#shape.node(reference)
    return await this.open(reference as NodeOptions, role, lineage)
  }

  /** Makes a node of a layer that `open` provides, with the children that it asks for. */
  async build<L extends BlockLayer>(
    driver: string,
    common: CommonOptions,
    lineage: Lineage,
    open: (context: OpenContext) => Promise<L>,
    options?: NodeOptions,
  ): Promise<{ node: BlockNode; layer: L }> {
    checkCommonOptions(common)
    const name = this.#shape.reserve(common.nodeName)
    // Its `file` comes before it in lists of nodes, all other children after it.
    const age = this.#count++
    const children = new Map<string, Edge>()
    const known = this.#drivers.find((each) => each.name === driver)
    const flags = common.active ? common : { ...common, readOnly: true, forceShare: true }
    let layer: L | undefined
    try {
      layer = await open(this.#context({ name, common, flags, lineage, children, known }))
      // That of a stream without a name of its own is to be taken for its child.
      const isNamed = options !== undefined || common.nodeName !== undefined
      const naming = isNamed || driver !== 'copy-on-read' ? known?.naming : undefined
      const kind = known?.kind ?? 'filter'
      const place = { name, driver, age }
      const settings: NodeSettings = { ...common, ...place, kind, naming, flags, options }
      const node = new BlockNode(settings, layer)
      if (!common.active) node.wanted = common
      // A check looks at the image as it is; of an inactive one they would soon be out of date.
      if (!common.check && common.active) await loadBitmaps(node)
      this.#shape.register(node, children)
      return { node, layer }
    } catch (error) {
      // The first error is the one to tell; closing goes on whatever else fails.
      for (const opened of [layer, ...children.values()]) {
        await Promise.resolve(opened?.[Symbol.asyncDispose]()).catch(() => {})
      }
      throw error
    } finally {
      this.#shape.unreserve(name)
    }
  }

  #bitmap(nodeName: string, name: string): DirtyBitmap {
    const node = this.#shape.nodes.get(nodeName)
    if (!node) throw new BlockError('INVALID_ARGUMENT', `Node '${nodeName}' not found`)
    const bitmap = findBitmap(node, name)
    checkUsable(bitmap, { readOnly: true })
    return bitmap
  }

  #context(opening: Opening): OpenContext {
    const { name, common, flags, lineage, children, known } = opening
    const connect = async (
      role: ChildRole,
      reference: NodeReference,
      childName?: string,
      images = lineage.images,
    ) => {
      const inherited = { ...lineage, images, defaults: childDefaults(role, common) }
      // Without a driver it is storage, below a filter too; only other roles are probed.
      const kind = role === 'filtered' ? 'file' : role
      const child = await this.#resolve(reference, kind, inherited)
      try {
        const edge = this.#shape.connect(
          child,
          role,
          { node: name },
          known?.opening ?? openingPermissions(role, flags),
          { name: childName },
        )
        children.set(edge.name, edge)
        return edge
      } catch (error) {
        await this.#shape.closeUnused(child)
        throw error
      }
    }
    return {
      name,
      flags,
      signal: lineage.signal,
      secrets: this.#secrets,
      warn: (message) => this.#onWarning?.(message),
      bitmap: (node, bitmap) => this.#bitmap(node, bitmap),
      throttleGroup: this.#throttleGroup,
      tlsCredentials: this.#tlsCredentials,
      child: connect,
      chain: (child, bottom) => {
        const edge = [...children.values()].find((each) => each === child)
        if (!edge) throw new TypeError('not a child of this node')
        return probeChain(this.#shape, edge.node, bottom, `node '${name}' relies on it`)
      },
      implied: async (role, recorded, format) => {
        const image = children.get('file')?.image?.filename
        const images = image === undefined ? lineage.images : [...lineage.images, image]
        const open = async (filename: string) => {
          checkChain(images, filename)
          await this.#policy({ role, filename, recorded, format, image })
          const options =
            role === 'data-file'
              ? this.#protocolOptions(filename)
              : this.withFile(filename, format === undefined ? {} : { driver: format })
          return await connect(role, options, undefined, images)
        }
        if (role === 'data-file') return await openDataFile(recorded, image, open)
        const filename = resolveRecorded(recorded, image)
        try {
          return await open(filename)
        } catch (error) {
          throw role === 'backing' ? inContext('Could not open backing file', error) : error
        }
      },
    }
  }
}

/** The driver's own options. One that it does not have is refused in QEMU's words. */
function parseOptions(driver: BlockDriver, options: NodeOptions, role: ChildRole | 'root') {
  try {
    return driver.parse(options)
  } catch (error) {
    if (!(error instanceof UnknownOption)) throw error
    const ofStorage = driver.kind === 'protocol' || driver.parseFilename !== undefined
    const storage = ofStorage || role === 'file' || role === 'filtered'
    throw new BlockError(
      'INVALID_ARGUMENT',
      storage
        ? `Block protocol '${driver.name}' doesn't support the option '${error.option}'`
        : `Block format '${driver.name}' does not support the option '${error.option}'`,
      { errno: 'EINVAL', cause: error },
    )
  }
}

/** What a parent needs of a child while it opens; worked out anew once it has users. */
function openingPermissions(role: ChildRole, flags: OpenFlags): Permissions {
  if (role === 'target') return targetPermissions
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
  const identity = identityOf(filename)
  if (images.some((image) => identityOf(image) === identity)) {
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

/** The same for every name of one file, however it is written and linked. */
function identityOf(filename: string): string {
  if (hasProtocol(filename)) return filename
  try {
    const { dev, ino } = statSync(filename)
    return `${dev}:${ino}`
  } catch {
    // Opening it will say what is wrong with it.
    return filename
  }
}

/** QEMU looks for a data file in the current folder. Where it is not there, it may lie beside its image. */
async function openDataFile<T>(
  recorded: string,
  image: string | undefined,
  open: (filename: string) => Promise<T>,
): Promise<T> {
  try {
    return await open(recorded)
  } catch (error) {
    const local = image !== undefined && !hasProtocol(image)
    const beside = local ? resolveRecorded(recorded, image) : recorded
    const refused = error instanceof BlockError && error.code === 'PERMISSION'
    if (beside === recorded || !(refused || errnoOf(error) === 'ENOENT')) throw error
    return await open(beside).catch((other) => {
      throw errnoOf(other) === 'ENOENT' ? error : other
    })
  }
}
