/** External snapshots: an overlay is put on an image, and everybody who used that uses the overlay. */
import { BlockError } from '../errors.ts'
import { filteredEdge } from './chain.ts'
import type { Graph } from './graph.ts'
import type { BlockNode } from './node.ts'

/** Refuses, as QEMU words it, what would pull an image away from under its overlay. */
export function checkNotBacking(node: BlockNode): void {
  for (const { role, owner } of node.parents) {
    if (role !== 'backing' || !owner) continue
    throw new BlockError(
      'BUSY',
      `Node '${node.name}' is busy: node is used as backing hd of '${owner.name}'`,
      { node: node.name, errno: 'EBUSY' },
    )
  }
}

/**
 * Makes `node` the backing file of `overlay`, and all its users users of the overlay: whole, or
 * not at all. What was written before is on stable storage then. The image's record of its
 * backing file is not touched.
 */
export async function putOverlay(graph: Graph, node: BlockNode, overlay: BlockNode): Promise<void> {
  checkOverlay(overlay)
  let former: Promise<void> | undefined
  await graph.changed(
    [node, overlay],
    (shape) => {
      const users = [...node.parents].filter(({ stays }) => !stays)
      shape.setBacking(overlay, node)
      try {
        shape.change({ moves: users.map((edge) => ({ edge, to: overlay })) })
      } catch (error) {
        const edge = shape.setBacking(overlay, undefined)
        former = edge?.[Symbol.asyncDispose]()
        throw error
      }
      return {}
    },
    async () => {
      await node.flush()
    },
  )
  await former
}

/** Takes an overlay away again, as if it had never been there. */
export async function takeOverlay(
  graph: Graph,
  node: BlockNode,
  overlay: BlockNode,
): Promise<void> {
  await graph.changed([node, overlay], (shape) => {
    const moves = [...overlay.parents]
      .filter(({ stays }) => !stays)
      .map((edge) => ({ edge, to: node }))
    const edge = shape.setBacking(overlay, undefined)
    shape.change({ moves })
    return { edges: edge ? [edge] : [] }
  })
}

function checkOverlay(overlay: BlockNode): void {
  const refuse = (text: string) =>
    new BlockError('INVALID_ARGUMENT', `The overlay ${text}`, {
      node: overlay.name,
      errno: 'EINVAL',
    })
  // It has to be as if it were new to its users: a mirror's target may, for that only writes.
  if ([...overlay.parents].some(({ uses }) => uses.has('consistentRead'))) {
    throw refuse('is already in use')
  }
  if (overlay.children.has('backing')) throw refuse('already has a backing image')
  if (filteredEdge(overlay))
    throw new BlockError('INVALID_ARGUMENT', 'Filters cannot be used as overlays', {
      node: overlay.name,
      errno: 'EINVAL',
    })
  if (!overlay.layer.setBacking) throw refuse('does not support backing images')
}
