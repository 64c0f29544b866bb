/** How all command-line tools open images: what they were told to trust, they open as QEMU does. */
import type { NodeOptions } from '../block/driver.ts'
import { credentialsFor } from '../block/tls-objects.ts'
import { drivers } from '../drivers.ts'
import { BlockError, inContext, invalid } from '../errors.ts'
import type { Edge } from '../graph/edge.ts'
import { optionsOfFilename } from '../graph/filename.ts'
import { Graph } from '../graph/graph.ts'
import type { BlockNode } from '../graph/node.ts'
import {
  type NodeDefaults,
  nested,
  rootDefaults,
  takeCommonOptions,
} from '../graph/node-options.ts'
import { allowAll } from '../graph/open-policy.ts'
import { probeFormat } from '../graph/probe.ts'
import type { NamedIo } from './command.ts'
import { reportCorruption } from './corruption-report.ts'
import { parseOptionString } from './keyval.ts'
import { probedRawWarning } from './probed-raw.ts'

/** A graph for images that the user names and trusts, backing files included. */
export function imageGraph(io: NamedIo): Graph {
  reportCorruption(io)
  const { secrets, throttleGroups, tls } = io
  return new Graph({
    drivers,
    secrets: secrets && (async (id) => secrets.get(id)),
    throttleGroup: (id) => throttleGroups?.get(id),
    tlsCredentials: tls && ((id) => credentialsFor(tls.find(id), id, 'client')),
    policy: allowAll,
    onProbedRaw: (filename) => io.stderr.write(probedRawWarning(filename)),
    onWarning: (message) => io.stderr.write(`${io.program}: warning: ${message}`),
  })
}

export interface CacheMode {
  /** `cache.direct` */
  readonly direct: boolean
  /** `cache.no-flush` */
  readonly noFlush: boolean
  /** Every write is on stable storage before it is answered. */
  readonly writethrough: boolean
}

const cacheModes: Readonly<Record<string, CacheMode>> = {
  none: { direct: true, noFlush: false, writethrough: false },
  off: { direct: true, noFlush: false, writethrough: false },
  directsync: { direct: true, noFlush: false, writethrough: true },
  writeback: { direct: false, noFlush: false, writethrough: false },
  unsafe: { direct: false, noFlush: true, writethrough: false },
  writethrough: { direct: false, noFlush: false, writethrough: true },
}

/** The mode of that name (`none`, `writeback`, `unsafe`, …), or undefined when there is none. */
export function cacheMode(name: string): CacheMode | undefined {
  return Object.hasOwn(cacheModes, name) ? cacheModes[name] : undefined
}

/**
 * Throws when an image lies in files of this machine, for which Linux's own asynchronous requests are asked
 * without what they need. A file that cannot be opened at all is told of instead.
 */
export async function checkNative(graph: Graph, request: ImageRequest, io: NamedIo): Promise<void> {
  if (request.cache?.direct) return
  const looked = { ...request, readOnly: true, noIo: true }
  const node = await openImage(graph, looked, io)
  if (isOnFiles(node)) {
    const message =
      'aio=native was specified, but it requires cache.direct=on, which was not specified.'
    const opening = request.opening ?? `Could not open '${request.filename}'`
    throw invalid(`${opening}: ${message}`)
  }
  await graph.remove(node.name)
}

export function isOnFiles(node: BlockNode): boolean {
  const below = [...node.children.values()].map((edge) => edge.node)
  if (below.length > 0) return below.some(isOnFiles)
  return node.driver === 'file' || node.driver.startsWith('host_')
}

export interface ImageRequest {
  /** A file name or URL; with `imageOpts` an option string. */
  readonly filename: string
  /** `--image-opts`: `filename` is `driver=…,file.filename=…`. */
  readonly imageOpts?: boolean
  /** The key of a first word without one; null: it is a flag. `file` unless given. */
  readonly impliedKey?: 'file' | null
  /** Probed when left out. */
  readonly format?: string
  /** Unless given, true. */
  readonly readOnly?: boolean
  readonly cache?: CacheMode
  /** `-U`: no locks; only for reading. */
  readonly forceShare?: boolean
  /** Opened to be checked; see `OpenFlags`. */
  readonly check?: boolean
  /** Nothing but facts is asked for; see `OpenFlags`. */
  readonly noIo?: boolean
  /** Whether backing files are opened too; unless given, true. */
  readonly backing?: boolean
  /** Whether what becomes zero or is discarded gives its space back. */
  readonly unmap?: boolean
  /** Further options of the node, as `blockdev-add` has them. */
  readonly options?: NodeOptions
  /** How a failure begins; `Could not open 'x'` unless given. */
  readonly opening?: string
}

/** Opens an image for qemu-img's kind of tool. Errors carry its text: `Could not open 'x': …`. */
export async function openImage(
  graph: Graph,
  request: ImageRequest,
  io: NamedIo,
): Promise<BlockNode> {
  try {
    const node = await openNode(graph, request, io)
    // Its options may say so.
    if (request.readOnly === false && node.readOnly) {
      throw new BlockError('READ_ONLY', 'Block node is read-only', { errno: 'EACCES' })
    }
    return node
  } catch (error) {
    throw inContext(request.opening ?? `Could not open '${request.filename}'`, error)
  }
}

/** The same with errors as they come, for tools that introduce them in other words. */
export async function openNode(
  graph: Graph,
  request: ImageRequest,
  io: NamedIo,
): Promise<BlockNode> {
  const readOnly = request.readOnly ?? true
  const options = { ...request.options, ...(await optionsOf(request, io)) }
  if (request.forceShare && !readOnly) {
    throw invalid('force-share=on can only be used with read-only images')
  }
  const defaults = {
    readOnly,
    direct: request.cache?.direct ?? false,
    noFlush: request.cache?.noFlush ?? false,
    forceShare: request.forceShare ?? false,
    check: request.check,
    noIo: request.noIo,
    discard: request.unmap ? ('unmap' as const) : ('ignore' as const),
  }
  if (request.backing !== false) return await graph.open(options, defaults)
  return await graph.open(await withoutBacking(graph, options, defaults, io), defaults)
}

async function optionsOf(request: ImageRequest, io: NamedIo): Promise<NodeOptions> {
  const { filename, format } = request
  if (request.imageOpts) {
    const { impliedKey = 'file' } = request
    return imageOptions(filename, impliedKey ?? undefined, io)
  }
  checkDriver(format)
  if (filename === '') throw invalid("The 'file' block driver requires a file name")
  const storage = optionsOfFilename(filename, drivers)
  const named = format === undefined ? {} : { driver: format }
  // Such a name describes the whole image, and of two formats the one outside it counts.
  if (filename.startsWith('json:')) return checkWhole({ ...storage, ...named }, io)
  const driver = drivers.find(({ name }) => name === format)
  if (driver?.kind !== 'protocol') return { ...named, file: storage }
  // A protocol that is named has the file name to itself.
  return { ...(driver.parseFilename?.(filename) ?? { filename }), ...named }
}

/**
 * Options that open the image alone. Which formats have backing files is told by their creators;
 * a format that is not named is probed first.
 */
async function withoutBacking(
  graph: Graph,
  given: NodeOptions,
  defaults: Partial<NodeDefaults>,
  io: NamedIo,
): Promise<NodeOptions> {
  const options = nested(given)
  const known = options.driver ? options : await probed(graph, options, defaults, io)
  const { creator } = drivers.find(({ name }) => name === known.driver) ?? {}
  const hasBacking = creator?.options.some(({ name }) => name === 'backing_file') ?? false
  return hasBacking && known.backing === undefined ? { ...known, backing: null } : known
}

async function probed(
  graph: Graph,
  options: NodeOptions,
  defaults: Partial<NodeDefaults>,
  io: NamedIo,
): Promise<NodeOptions> {
  const { readOnly } = takeCommonOptions(options, { ...rootDefaults, ...defaults }).common
  const file = typeof options.file === 'string' ? graph.node(options.file) : undefined
  const storage = file ?? (await graph.open(storageOptions(options.file as NodeOptions), defaults))
  const edge = graph.attach(storage, { description: 'format probing', uses: ['consistentRead'] })
  try {
    const driver = await probeFormat(drivers, edge)
    const guarded = driver === 'raw' && !readOnly
    if (guarded) io.stderr.write(probedRawWarning(storage.layer.image?.filename ?? ''))
    return { ...options, driver, file: storage.name, ...(guarded ? { 'x-probed': true } : {}) }
  } finally {
    await edge[Symbol.asyncDispose]()
  }
}

function storageOptions(options: NodeOptions): NodeOptions {
  if (options.driver !== undefined || typeof options.filename !== 'string') return options
  return { ...options, ...optionsOfFilename(options.filename, drivers) }
}

/** Uses an image that was opened. Who keeps others out may be in the way only now: as if not opened. */
export function attachImage(
  graph: Graph,
  node: BlockNode,
  filename: string,
  needs: Parameters<Graph['attach']>[1],
): Edge {
  try {
    return graph.attach(node, needs)
  } catch (error) {
    throw inContext(`Could not open '${filename}'`, error)
  }
}

/**
 * Opens a backing file that is only looked at, whoever writes to it meanwhile. Errors are not put into
 * context.
 */
export async function openBacking(
  graph: Graph,
  filename: string,
  format: string | undefined,
): Promise<BlockNode> {
  checkDriver(format)
  const options = format === undefined ? {} : { driver: format }
  return await graph.openFile(filename, options, { readOnly: true, noIo: true, forceShare: true })
}

function imageOptions(text: string, impliedKey: string | undefined, io: NamedIo): NodeOptions {
  const { options, shortForms } = parseOptionString(text, impliedKey)
  for (const { written, meaning } of shortForms) {
    io.stderr.write(
      `${io.program}: warning: short-form boolean option '${written}' deprecated\n` +
        `Please use ${meaning} instead\n`,
    )
  }
  return checkWhole(options, io)
}

/** Options of an image that its user gave in full. */
function checkWhole(options: NodeOptions, io: NamedIo): NodeOptions {
  const hasFile = Object.entries(options).some(
    ([key, value]) => /^file(\.|$)/.test(key) && value !== null,
  )
  const named = typeof options.driver === 'string' ? options.driver : undefined
  if (named === undefined && !hasFile) throw invalid('Must specify either driver or file')
  checkDriver(named)
  const driver = drivers.find(({ name }) => name === named)
  if (driver?.kind === 'format' && !hasFile) {
    throw invalid('A block device must be specified for "file"')
  }
  if (options.backing !== '') return options
  io.stderr.write(
    `${io.program}: warning: Use of "backing": "" is deprecated; use "backing": null instead\n`,
  )
  return { ...options, backing: null }
}

function checkDriver(name: string | undefined): void {
  if (name === undefined || drivers.some((driver) => driver.name === name)) return
  throw invalid(`Unknown driver '${name}'`)
}
