/**
 * Handing images from one process to another and back, as a live migration does. An inactive node
 * has written everything out, holds no lock, serves nobody and changes nothing; its users stay
 * attached and are refused meanwhile. When it becomes active again it drops whatever it had read,
 * since another process may have changed the image.
 *
 * Nodes become inactive from the top, a format writes its last metadata through its storage, and
 * active from the bottom. While inactive, layers are read-only: none can write by mistake.
 */
import { plainIo } from '../block/layer.ts'
import { everyPermission, noPermission } from '../block/permission.ts'
import type { BlockNode } from './node.ts'
import { loadBitmaps, releaseBitmaps } from './persistent-bitmaps.ts'
import type { GraphShape } from './shape.ts'

/** The nodes, and what they stand on as far as nobody else uses it; parents first. */
export function handedOver(
  nodes: Iterable<BlockNode>,
  isWanted: (node: BlockNode) => boolean,
): BlockNode[] {
  const found = new Set<BlockNode>()
  for (const node of nodes) if (isWanted(node)) found.add(node)
  // A Set iterates over what is added on the way.
  for (const node of found) {
    for (const { node: child } of node.children.values()) {
      const others = [...child.parents].some(({ owner }) => owner && !found.has(owner))
      if (isWanted(child) && !others) {
        // Behind all of its parents.
        found.delete(child)
        found.add(child)
      }
    }
  }
  return [...found]
}

/** While the nodes, parents first, are drained. On failure those done are active again. */
export async function inactivate(shape: GraphShape, nodes: readonly BlockNode[]): Promise<void> {
  const done: BlockNode[] = []
  try {
    for (const node of nodes) {
      await inactivateOne(shape, node)
      done.push(node)
    }
  } catch (error) {
    await activate(shape, done)
    throw error
  }
}

async function inactivateOne(shape: GraphShape, node: BlockNode): Promise<void> {
  const { layer, flags } = node
  await node.flush()
  await releaseBitmaps(node)
  try {
    if (!flags.readOnly) await layer.setReadOnly?.(true, plainIo)
  } catch (error) {
    await loadBitmaps(node)
    throw error
  }
  node.wanted = flags
  node.setFlags({ ...flags, readOnly: true, forceShare: true })
  layer.locks?.update(noPermission, everyPermission)
  shape.refresh()
}

/**
 * While the nodes, parents first, are drained. All locks are taken before anything is read. Where
 * an image cannot be had, because another process still uses it or has broken it, all of the nodes
 * stay inactive.
 */
export async function activate(shape: GraphShape, nodes: readonly BlockNode[]): Promise<void> {
  const wanted = nodes.map((node) => ({ node, flags: node.flags, wanted: node.wanted }))
  const done = new Set<BlockNode>()
  try {
    for (const { node, wanted: flags } of wanted) {
      if (flags) node.setFlags(flags)
      node.wanted = undefined
    }
    shape.refresh()
    for (const node of nodes.toReversed()) {
      done.add(node)
      await takeBack(node)
    }
  } catch (error) {
    // What has failed half-way is let go as well; the first error is the one to tell.
    for (const { node, flags, wanted: before } of wanted) {
      if (done.has(node)) await inactivateOne(shape, node).catch(() => {})
      node.setFlags(flags)
      node.wanted = before
      node.layer.locks?.update(noPermission, everyPermission)
    }
    shape.refresh()
    throw error
  }
}

async function takeBack(node: BlockNode): Promise<void> {
  const { layer, flags } = node
  await layer.reread?.(plainIo)
  if (!flags.readOnly) await layer.setReadOnly?.(false, plainIo)
  await loadBitmaps(node)
}
