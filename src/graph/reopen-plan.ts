/** What reopening nodes comes to, and why it is refused: all that can be known before anything is touched. */
import type { BlockDriver, NodeOptions } from '../block/driver.ts'
import type { ChildRole } from '../block/permission.ts'
import { BlockError, invalid } from '../errors.ts'
import { bucketOf } from './dictionary-order.ts'
import type { BlockNode } from './node.ts'
import {
  type CommonOptions,
  checkDetectZeroes,
  childDefaults,
  type NodeDefaults,
  nested,
  rootDefaults,
  takeCommonOptions,
} from './node-options.ts'
import { checkCycle, checkLoop, type GraphShape, type Move } from './shape.ts'

export type Drivers = readonly BlockDriver[]

/** What is to become of one node. */
export interface Change {
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

/** One entry: the node, and those of its children that are described in place. */
export function planEntry(shape: GraphShape, drivers: Drivers, given: NodeOptions): Change[] {
  const options = nested(given)
  return planChanges(shape, drivers, nodeToChange(shape, options), options, rootDefaults)
}

/** Complaints come in QEMU's order. */
function planChanges(
  shape: GraphShape,
  drivers: Drivers,
  node: BlockNode,
  options: NodeOptions,
  defaults: NodeDefaults,
): Change[] {
  // As in QEMU, this one stays unless something else is said.
  const discard = node.discardMode
  const { common, rest } = takeCommonOptions(options, { ...defaults, discard })
  checkDetectZeroes(common)
  const driver = drivers.find((each) => each.name === node.driver)
  if (!driver?.changeable) throw cannotReopen(node)
  checkNothingReset(node, driver, options, rest, defaults !== rootDefaults)
  // Values that make no sense are refused before anything is touched.
  if (common.driver === node.driver) driver.parse(rest)
  const children = [...node.children].toSorted(([role]) => (role === 'backing' ? -1 : 0))
  const backing = node.children.has('backing')
    ? rest.backing === null || rest.backing === ''
      ? null
      : undefined
    : newBacking(shape, node, rest.backing)
  const moves: Move[] = []
  const inPlace: Change[] = []
  const foreign: string[] = []
  for (const [role, edge] of children) {
    const reference = rest[role]
    if (typeof reference !== 'object' || reference === null) {
      const to = childFor(shape, node, role, reference)
      if (!to || to === edge.node) continue
      if (role === 'file' || role === 'backing') moves.push({ edge, to })
      else foreign.push(role)
    } else if (!isInPlace(node, role)) foreign.push(...flatNames(role, reference))
  }
  const changed = changedOptions(node, rest)
  const refused = [...changed, ...otherThanNode(node, options, common), ...foreign].filter(
    (option) => !driver.changeable?.includes(option),
  )
  if (refused.length > 0) throw unchangeable(inOrder(refused)[0])
  if (backing) checkCycle(node, 'backing', backing)
  for (const { edge, to } of moves) checkLoop(edge, to)
  for (const [role, edge] of children) {
    const reference = rest[role]
    if (typeof reference !== 'object' || reference === null) continue
    const inherited = childDefaults(edge.role as ChildRole, common)
    const own = nested(reference as NodeOptions)
    inPlace.push(...planChanges(shape, drivers, edge.node, own, inherited))
  }
  return [{ node, driver, common, options: rest, moves, backing, changed }, ...inPlace]
}

/** Options that were given once cannot be left out, unless they can change at any time. */
function checkNothingReset(
  node: BlockNode,
  { changeable, lasting }: BlockDriver,
  options: NodeOptions,
  rest: NodeOptions,
  isChildInPlace: boolean,
): void {
  const before = Object.keys(node.options).filter((name) => !isChild(node, name))
  const free = (name: string) => changeable?.includes(name) && !lasting?.includes(name)
  const missing = before.filter((name) => rest[name] === undefined && !free(name))
  const shared = node.flags.forceShare && options['force-share'] === undefined
  if (shared && !isChildInPlace) missing.push('force-share')
  if (missing.length === 0) return
  throw invalid(`Option '${inOrder(missing)[0]}' cannot be reset to its default value`)
}

/** Options of every node that are for good, and say otherwise. */
function otherThanNode(node: BlockNode, options: NodeOptions, common: CommonOptions): string[] {
  const found: string[] = []
  if (common.driver !== undefined && common.driver !== node.driver) found.push('driver')
  const name = options['node-name']
  if (name !== undefined && name !== node.name) found.push('node-name')
  const share = options['force-share']
  if (share !== undefined && common.forceShare !== node.flags.forceShare) found.push('force-share')
  return found
}

/** Whether the child was opened along with the node, from options within the node's own. */
function isInPlace(node: BlockNode, role: string): boolean {
  const before = node.options[role]
  return typeof before === 'object' && before !== null
}

function flatNames(prefix: string, value: unknown): string[] {
  if (typeof value !== 'object' || value === null) return [prefix]
  return Object.entries(value).flatMap(([name, each]) => flatNames(`${prefix}.${name}`, each))
}

function inOrder(names: readonly string[]): string[] {
  return names.toSorted((one, other) => bucketOf(one) - bucketOf(other))
}

export function nodeToChange(shape: GraphShape, { 'node-name': name }: NodeOptions): BlockNode {
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
  if (typeof reference !== 'string') {
    throw unchangeable(inOrder(flatNames('backing', reference))[0])
  }
  if (!node.layer.setBacking) throw unchangeable('backing')
  return found(shape, reference)
}

function found(shape: GraphShape, name: string): BlockNode {
  const node = shape.nodes.get(name)
  if (node) return node
  throw invalid(`Cannot find device='' nor node-name='${name}'`)
}

function changedOptions(node: BlockNode, rest: NodeOptions): string[] {
  const names = new Set([...Object.keys(node.options), ...Object.keys(rest)])
  return [...names].filter(
    (option) => !isChild(node, option) && !sameValue(node.options[option], rest[option]),
  )
}

function isChild(node: BlockNode, option: string): boolean {
  return option === 'backing' || node.children.has(option)
}

/** Values are typed or text, depending on where they come from. */
function sameValue(one: unknown, other: unknown): boolean {
  const text = (value: unknown) =>
    typeof value === 'object' ? JSON.stringify(value) : value === undefined ? value : String(value)
  return text(one) === text(other)
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
