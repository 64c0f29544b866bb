/** Chains of images: what lies below what, filters skipped. */
import { BlockError } from '../errors.ts'
import { describeUser, type Edge } from './edge.ts'
import type { BlockNode } from './node.ts'

/** The edge to what a filter shows. Raw images show their file as well, but are no filters. */
export function filteredEdge(node: BlockNode): Edge | undefined {
  if (!node.isFilter) return undefined
  for (const edge of node.children.values()) if (edge.role === 'filtered') return edge
  return undefined
}

/** The edge to what a node filters or, of an image, to its backing file. */
export function edgeBelow(node: BlockNode): Edge | undefined {
  return filteredEdge(node) ?? node.children.get('backing')
}

/** The first node, from `node` down, that is no filter. */
export function skipFilters(node: BlockNode): BlockNode {
  const edge = filteredEdge(node)
  return edge ? skipFilters(edge.node) : node
}

/** The node, then everything below it in its chain, filters included. */
export function chainOf(node: BlockNode): BlockNode[] {
  const chain = [node]
  for (let edge = edgeBelow(node); edge; edge = edgeBelow(edge.node)) chain.push(edge.node)
  return chain
}

/** The nodes from the top of a chain down to, but without, the base. */
export function chainTo(top: BlockNode, base: BlockNode): BlockNode[] {
  const chain = chainOf(top)
  return chain.slice(0, chain.indexOf(base))
}

/** The images of a chain, the topmost first, without filters. */
export function imagesOf(node: BlockNode): BlockNode[] {
  return chainOf(node).filter((each) => filteredEdge(each) === undefined)
}

/** The edges that lead from one node of a chain down to another, or to the chain's end. */
export function edgesBetween(top: BlockNode, base: BlockNode | undefined): Edge[] {
  const edges: Edge[] = []
  for (let node = top; node !== base; ) {
    const edge = edgeBelow(node)
    if (!edge) break
    edges.push(edge)
    node = edge.node
  }
  return edges
}

/**
 * Holds the edges between two nodes of a chain in their places until the answer is called. Throws
 * `BUSY` when somebody does so already.
 */
export function freezeChain(top: BlockNode, base: BlockNode | undefined, holder: string) {
  const edges = edgesBetween(top, base)
  const taken = edges.find(({ frozen }) => frozen !== undefined)
  if (taken) {
    throw new BlockError(
      'BUSY',
      `Cannot freeze '${taken.name}' link to '${taken.node.name}': ${taken.frozen}`,
      { node: taken.owner?.name, errno: 'EPERM' },
    )
  }
  // Whoever has put a filter into it takes it out again, which moves an edge.
  const filter = edges.find(({ node }) => node.isFilter && [...node.parents].some(isStaying))
  if (filter) {
    const user = describeUser([...filter.node.parents].find(isStaying)!)
    throw new BlockError('BUSY', `Node '${filter.node.name}' is busy: ${user} has put it there`, {
      node: filter.node.name,
      errno: 'EBUSY',
    })
  }
  for (const edge of edges) edge.frozen = holder
  return () => {
    for (const edge of edges) if (edge.frozen === holder) edge.frozen = undefined
  }
}

const isStaying = (edge: Edge): boolean => edge.stays

/** The name that opens a node's image again: its own, or that of what it lies in. */
export function filenameOf(node: BlockNode): string {
  const own = node.layer.image?.filename
  if (own !== undefined) return own
  const storage = node.children.get('file')?.node
  return storage ? filenameOf(storage) : `json:{"driver": "${node.driver}"}`
}
