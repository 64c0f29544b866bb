/** Which nodes a copy of another node may take the place of. */
import { invalid } from '../errors.ts'
import { filteredEdge } from './chain.ts'
import type { BlockNode } from './node.ts'
import { checkNotBacking } from './overlay.ts'

/**
 * Throws unless users of `replaced` see no change when they get a copy of `source`: because it shows
 * the very same data, or because only `source` uses it and has others like it, as a quorum has.
 */
export function checkReplaceable(source: BlockNode, replaced: BlockNode): void {
  replaced.blockers.check('replace')
  checkNotBacking(replaced)
  if (isReplaceable(source, replaced)) return
  throw invalid(
    `Cannot replace '${replaced.name}' by a node mirrored from '${source.name}', because it ` +
      'cannot be guaranteed that doing so would not lead to an abrupt change of visible data',
  )
}

function isReplaceable(source: BlockNode, replaced: BlockNode): boolean {
  if (source === replaced) return true
  const below = filteredEdge(source)?.node
  if (below) return isReplaceable(below, replaced)
  return membersOf(source).some(
    (member) => member.parents.size === 1 && isReplaceable(member, replaced),
  )
}

function membersOf({ layer, children }: BlockNode): BlockNode[] {
  const names = layer.members?.get() ?? []
  return names.flatMap((name) => children.get(name)?.node ?? [])
}
