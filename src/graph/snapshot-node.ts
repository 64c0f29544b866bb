/** Whose internal snapshots are meant when a node is named: a filter's are those of what it filters. */
import type { BlockNode } from './node.ts'
import { filteredChild } from './status.ts'

export function snapshotNode(node: BlockNode): BlockNode {
  let found = node
  for (;;) {
    const below = found.layer.snapshots ? undefined : filteredChild(found)
    if (!below) return found
    found = below
  }
}
