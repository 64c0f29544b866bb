/** An export of a node of the graph: what its backing files show is known. */
import type { BlockLayer, Extent } from '../block/layer.ts'
import type { Edge } from '../graph/edge.ts'
import { type ChainExtent, chainExtentAt } from '../graph/status.ts'

/** `extentAt` through all of the chain, which is looked at anew each time: it may change. */
export function extentsThroughChain(edge: Edge): BlockLayer['extentAt'] {
  return async (offset, length, io) => asExtent(await chainExtentAt(edge.node, offset, length, io))
}

function asExtent({ offset, length, zero, data }: ChainExtent): Extent {
  // As QEMU has it: a cluster of data that its file has as a hole is no hole, one of zeroes is one, whether
  // or not space is reserved for it.
  return zero ? { kind: 'zero', allocated: data, offset, length } : { kind: 'data', offset, length }
}
