/** An export of a node of the graph: what its backing files show is known, and who shows it. */
import type { BlockLayer, Extent } from '../../block/layer.ts'
import type { Edge } from '../../graph/edge.ts'
import { type ChainExtent, chainExtentAt } from '../../graph/status.ts'
import type { MetaContext } from './contexts.ts'

/** For `ExportOptions.chainExtentAt`. The chain is looked at anew each time: it may change. */
export function extentsThroughChain(edge: Edge): BlockLayer['extentAt'] {
  return async (offset, length, io) => asExtent(await chainExtentAt(edge.node, offset, length, io))
}

/** Status 0: nobody has it allocated; 1: the image itself; 2 and more: a backing file. */
export function allocationDepthContext(edge: Edge): MetaContext {
  return {
    name: 'qemu:allocation-depth',
    async statusAt(offset, length, io) {
      const run = await chainExtentAt(edge.node, offset, length, io)
      return { length: run.length, flags: run.depth === undefined ? 0 : run.depth + 1 }
    },
  }
}

function asExtent({ offset, length, zero, data }: ChainExtent): Extent {
  // As QEMU has it: a cluster of data that its file has as a hole is no hole, one of zeroes is one, whether
  // or not space is reserved for it.
  return zero ? { kind: 'zero', allocated: data, offset, length } : { kind: 'data', offset, length }
}
