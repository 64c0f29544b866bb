/** `ChainProbe` for drivers: what is allocated between two images of a chain. */
import type { ChainProbe } from '../block/driver.ts'
import { invalid } from '../errors.ts'
import { chainOf, edgeBelow, filteredEdge, freezeChain } from './chain.ts'
import type { BlockNode } from './node.ts'
import type { GraphShape } from './shape.ts'
import { chainExtentAt } from './status.ts'

/** The chain from `top` down to, and with, the image called `name`. */
export function probeChain(
  shape: GraphShape,
  top: BlockNode,
  name: string,
  holder: string,
): ChainProbe {
  const bottom = shape.nodes.get(name)
  if (!bottom) throw invalid(`Bottom node '${name}' not found`)
  if (filteredEdge(bottom)) throw invalid(`Bottom node '${name}' is a filter`)
  if (!chainOf(top).includes(bottom)) {
    throw invalid(`Bottom node '${name}' is not in the backing chain of '${top.name}'`)
  }
  const release = freezeChain(top, bottom, holder)
  return {
    release,
    async extentAt(offset, length, io) {
      const base = edgeBelow(bottom)?.node
      const { length: found, depth } = await chainExtentAt(top, offset, length, io, base)
      return { length: found, allocated: depth !== undefined }
    },
  }
}
