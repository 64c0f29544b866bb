/**
 * Changing the options of open nodes, as many as are given, all or none: what kind of access they
 * permit, what their drivers let be changed, and which nodes are their children.
 *
 * Everything that can be checked is checked first. Then, with the nodes drained, the shape is
 * changed in one turn, and the layers after it; whatever fails, what was done is undone.
 */
import type { BlockDriver, NodeOptions } from '../block/driver.ts'
import { plainIo } from '../block/layer.ts'
import { BlockError } from '../errors.ts'
import { switchAccess } from './access.ts'
import { switchCache } from './cache-mode.ts'
import type { Edge } from './edge.ts'
import type { BlockNode } from './node.ts'
import { type CommonOptions, nested, rootDefaults, takeCommonOptions } from './node-options.ts'
import type { GraphShape, Move } from './shape.ts'

/** What is to become of one node. */
interface Change {
  readonly node: BlockNode
  readonly driver: BlockDriver
  readonly common: CommonOptions
  /** The driver's own, children included. */
  readonly options: NodeOptions
  /** Children that are to be other nodes. */
  readonly moves: readonly Move[]
  /** A backing file where there was none, none (null) where there was one, or nothing of both. */
  readonly backing: BlockNode | null | undefined
  /** Names of the driver's options whose values differ. */
  readonly changed: readonly string[]
}

export interface Reopening {
  /** Nodes to be drained meanwhile. */
  readonly nodes: readonly BlockNode[]
  /** Makes the changes, while the nodes are drained. Returns the edges that were dropped. */
  run(): Promise<readonly Edge[]>
}

/** Checks what can be checked beforehand; each entry is the complete options of its node. */
export function prepareReopen(
  shape: GraphShape,
  drivers: readonly BlockDriver[],
  wanted: readonly NodeOptions[],
): Reopening {
  // All nodes have to be there before any of their options is looked at.
  for (const options of wanted) nodeToChange(shape, nested(options))
  const changes = wanted.map((options) => planChange(shape, drivers, options))
  const nodes = new Set<BlockNode>()
  for (const { node, moves, backing } of changes) {
    nodes.add(node)
    for (const { edge, to } of moves) nodes.add(edge.node).add(to)
    if (backing) nodes.add(backing)
  }
  return { nodes: [...nodes], run: () => apply(shape, changes) }
}

function planChange(
  shape: GraphShape,
  drivers: readonly BlockDriver[],
  given: NodeOptions,
): Change {
  const options = nested(given)
  const discard = shape.nodes.get(String(options['node-name']))?.discardMode
  // As in QEMU, this one stays unless something else is said.
  const defaults = { ...rootDefaults, ...(discard && { discard }) }
  const node = nodeToChange(shape, options)
  const { common, rest } = takeCommonOptions(options, defaults)
  if (common.driver !== node.driver) throw unchangeable('driver')
  const driver = drivers.find((each) => each.name === node.driver)
  if (!driver?.changeable) throw cannotReopen(node)
  const children = new Map([...node.children].map(([role, edge]) => [role, edge]))
  const moves: Move[] = []
  for (const [role, edge] of children) {
    const to = childFor(shape, node, role, rest[role])
    if (to && to !== edge.node) moves.push({ edge, to })
  }
  const backing = children.has('backing')
    ? rest.backing === null || rest.backing === ''
      ? null
      : undefined
    : newBacking(shape, node, rest.backing)
  const changed = changedOptions(node, rest)
  const refused = changed.find((option) => !driver.changeable?.includes(option))
  if (refused !== undefined) throw unchangeable(refused)
  // Values that make no sense are refused before anything is touched.
  driver.parse(rest)
  return { node, driver, common, options: rest, moves, backing, changed }
}

function nodeToChange(shape: GraphShape, { 'node-name': name }: NodeOptions): BlockNode {
  if (name === undefined) throw invalid('node-name not specified')
  const node = shape.nodes.get(String(name))
  if (node) return node
  throw invalid(`Failed to find node with node-name='${name}'`)
}

/** The node that a child is to be; undefined where it stays. */
function childFor(
  shape: GraphShape,
  node: BlockNode,
  role: string,
  reference: unknown,
): BlockNode | undefined {
  if (reference === null || reference === '') return undefined
  if (typeof reference === 'string') return found(shape, reference)
  if (reference === undefined) {
    if (role === 'backing') throw invalid(`backing is missing for '${node.name}'`)
    return undefined
  }
  const before = node.options[role]
  if (typeof before !== 'object' || before === null) throw unchangeable(`${role}.driver`)
  // The options of a child that was opened along with the node: they stay.
  // How they use the cache is inherited unless it is said.
  const { cache, ...others } = nested(reference as NodeOptions)
  const option = differing(before as NodeOptions, others)
  if (option !== undefined) throw unchangeable(option)
  return undefined
}

function newBacking(
  shape: GraphShape,
  node: BlockNode,
  reference: unknown,
): BlockNode | null | undefined {
  // Having none has to be said of an image that names one.
  const names = node.layer.backingLink?.recorded !== undefined
  if (reference === undefined && names) throw invalid(`backing is missing for '${node.name}'`)
  if (reference === undefined || reference === null || reference === '') return undefined
  if (typeof reference !== 'string') throw unchangeable('backing.driver')
  if (!node.layer.setBacking) throw unchangeable('backing')
  return found(shape, reference)
}

function found(shape: GraphShape, name: string): BlockNode {
  const node = shape.nodes.get(name)
  if (node) return node
  throw invalid(`Cannot find device='' nor node-name='${name}'`)
}

function changedOptions(node: BlockNode, rest: NodeOptions): string[] {
  const isChild = (option: string) => option === 'backing' || node.children.has(option)
  const names = new Set([...Object.keys(node.options), ...Object.keys(rest)])
  return [...names].filter(
    (option) => !isChild(option) && !sameValue(node.options[option], rest[option]),
  )
}

/** Options of every node; the driver's own are looked at first. */
const everyNodes = new Set([
  'discard',
  'detect-zeroes',
  'read-only',
  'auto-read-only',
  'force-share',
])

function differing(before: NodeOptions, after: NodeOptions): string | undefined {
  const flat = nested(before)
  const names = Object.keys(nested(after)).filter((name) => !sameValue(flat[name], after[name]))
  return names.find((name) => !everyNodes.has(name)) ?? names[0]
}

/** Values are typed or text, depending on where they come from. */
function sameValue(one: unknown, other: unknown): boolean {
  const text = (value: unknown) =>
    typeof value === 'object' ? JSON.stringify(value) : value === undefined ? value : String(value)
  return text(one) === text(other)
}

/** Steps, each with what undoes it. */
async function apply(shape: GraphShape, changes: readonly Change[]): Promise<readonly Edge[]> {
  const undo: (() => Promise<void> | void)[] = []
  const dropped: Edge[] = []
  const setBacking = (node: BlockNode, to: BlockNode | undefined) => {
    const edge = shape.setBacking(node, to)
    if (edge) dropped.push(edge)
  }
  try {
    for (const { node, backing } of changes) {
      if (backing !== null) continue
      const before = node.children.get('backing')?.node
      setBacking(node, undefined)
      undo.push(() => setBacking(node, before))
    }
    const moves = changes.flatMap((change) => change.moves)
    const back = moves.map(({ edge }) => ({ edge, to: edge.node }))
    shape.change({ moves })
    undo.push(() => shape.change({ moves: back }))
    for (const { node, backing } of changes) {
      if (!backing) continue
      setBacking(node, backing)
      undo.push(() => setBacking(node, undefined))
    }
    for (const change of changes) await applyOptions(shape, change, undo)
  } catch (error) {
    for (const step of undo.reverse()) await step()
    for (const edge of dropped) await edge[Symbol.asyncDispose]()
    throw error
  }
  return dropped
}

async function applyOptions(
  shape: GraphShape,
  { node, driver, common, options, changed }: Change,
  undo: (() => Promise<void> | void)[],
): Promise<void> {
  const { readOnly } = node.flags
  if (common.readOnly !== readOnly) {
    await switchAccess(shape, node, common.readOnly)
    undo.push(() => switchAccess(shape, node, readOnly))
  }
  const { direct, noFlush } = node.flags
  await switchCache(shape, node, common, options)
  undo.push(() => switchCache(shape, node, { direct, noFlush }, node.options))
  const before = node.settings
  const layer = node.layer
  if (changed.length > 0) {
    await layer.reopen?.(driver.parse(options), plainIo)
    undo.push(() => layer.reopen?.(driver.parse(before.options ?? {}), plainIo))
  }
  node.configure({
    flags: { ...node.flags, forceShare: common.forceShare },
    discard: common.discard,
    detectZeroes: common.detectZeroes,
    options,
  })
  undo.push(() => node.configure(before))
  shape.refresh()
}

function unchangeable(option: string): BlockError {
  return invalid(`Cannot change the option '${option}'`)
}

function cannotReopen({ driver, name }: BlockNode): BlockError {
  return new BlockError(
    'UNSUPPORTED',
    `Block format '${driver}' used by node '${name}' does not support reopening files`,
    { node: name, errno: 'ENOTSUP' },
  )
}

function invalid(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { errno: 'EINVAL' })
}
