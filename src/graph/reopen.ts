/**
 * Changing the options of open nodes, as many as are given, all or none: what kind of access they
 * permit, what their drivers let be changed, and which nodes are their children.
 *
 * Everything that can be checked is checked first. Then, with the nodes drained, the shape is
 * changed in one turn, and the layers after it; whatever fails, what was done is undone.
 */
import type { NodeOptions } from '../block/driver.ts'
import { plainIo } from '../block/layer.ts'
import { switchAccess } from './access.ts'
import { switchCache } from './cache-mode.ts'
import type { Edge } from './edge.ts'
import type { BlockNode } from './node.ts'
import { nested } from './node-options.ts'
import { type Change, type Drivers, nodeToChange, planEntry } from './reopen-plan.ts'
import type { GraphShape } from './shape.ts'

export interface Reopening {
  /** Nodes to be drained meanwhile. */
  readonly nodes: readonly BlockNode[]
  /** Makes the changes, while the nodes are drained. Returns the edges that were dropped. */
  run(): Promise<readonly Edge[]>
}

/** Checks what can be checked beforehand; each entry is the complete options of its node. */
export function prepareReopen(
  shape: GraphShape,
  drivers: Drivers,
  wanted: readonly NodeOptions[],
): Reopening {
  // All nodes have to be there before any of their options is looked at.
  for (const options of wanted) nodeToChange(shape, nested(options))
  const changes = wanted.flatMap((options) => planEntry(shape, drivers, options))
  const nodes = new Set<BlockNode>()
  for (const { node, moves, backing } of changes) {
    nodes.add(node)
    for (const { edge, to } of moves) nodes.add(edge.node).add(to)
    if (backing) nodes.add(backing)
  }
  return { nodes: [...nodes], run: () => apply(shape, changes) }
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
    await applyAccess(shape, changes, undo)
    for (const change of changes) await applyOptions(shape, change, undo)
  } catch (error) {
    for (const step of undo.reverse()) await undone(step)
    for (const edge of dropped) await edge[Symbol.asyncDispose]()
    throw error
  }
  return dropped
}

/** A step that cannot be undone does not keep the others from it; the first error is the one to tell. */
async function undone(step: () => Promise<void> | void): Promise<void> {
  try {
    await step()
  } catch {}
}

/** From below where nodes become writable, from above where they cease to be. */
async function applyAccess(
  shape: GraphShape,
  changes: readonly Change[],
  undo: (() => Promise<void> | void)[],
): Promise<void> {
  const writable = changes.filter(({ common }) => !common.readOnly).reverse()
  for (const { node, common } of [...writable, ...changes.filter((each) => each.common.readOnly)]) {
    const { readOnly } = node.flags
    if (common.readOnly === readOnly) continue
    await switchAccess(shape, node, common.readOnly)
    undo.push(() => switchAccess(shape, node, readOnly))
  }
}

async function applyOptions(
  shape: GraphShape,
  { node, driver, common, options, changed }: Change,
  undo: (() => Promise<void> | void)[],
): Promise<void> {
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
    flags: node.flags,
    discard: common.discard,
    detectZeroes: common.detectZeroes,
    options,
  })
  undo.push(() => node.configure(before))
  shape.refresh()
}
