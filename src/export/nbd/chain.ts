/** An export of a node of the graph: which of its backing files shows what. */
import type { Edge } from '../../graph/edge.ts'
import { chainExtentAt } from '../../graph/status.ts'
import type { MetaContext } from './contexts.ts'

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
