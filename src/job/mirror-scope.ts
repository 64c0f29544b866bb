/** What differs when a mirror begins: all of the disk, or what an image, a chain or a bitmap says. */
import type { DirtyBitmap } from '../bitmap/dirty-bitmap.ts'
import { CopyError } from '../block/transfer.ts'
import { skipFilters } from '../graph/chain.ts'
import type { BlockNode } from '../graph/node.ts'
import { backingOf, chainExtentAt } from '../graph/status.ts'
import type { SyncBitmap } from './sync-bitmap.ts'
import type { JobControl } from './work.ts'

/** `above`: what images above a base hold, for a commit into it. */
export type MirrorScope =
  | { readonly sync: 'full' | 'top' | 'none' }
  | { readonly above: BlockNode }
  | { readonly bitmap: SyncBitmap }

export interface MarkOptions {
  readonly source: BlockNode
  readonly target: BlockNode
  readonly scope: MirrorScope
  /** Where it is marked. Guests write meanwhile, and mark what they change themselves. */
  readonly bitmap: DirtyBitmap
}

/** Marks what differs, and makes the target zero where that is cheaper than to mark it all. */
export async function markDifferences(control: JobControl, options: MarkOptions): Promise<void> {
  const { source, target, scope, bitmap } = options
  if ('bitmap' in scope) return
  if ('above' in scope) return await markAllocated(control, source, scope.above, bitmap)
  if (scope.sync === 'none') return
  if (scope.sync === 'top') return await markAllocated(control, source, backingOf(source), bitmap)
  if (!canDeallocate(target)) return bitmap.add(0, source.size)
  // Cheaper than zeroing between the data.
  await retried(control, 'write', async () => {
    await control.during(async () => {
      await target.writeZeroes(0, target.size, { signal: control.signal, mayUnmap: true })
    })
  })
  await markAllocated(control, source, undefined, bitmap)
}

async function markAllocated(
  control: JobControl,
  source: BlockNode,
  base: BlockNode | undefined,
  bitmap: DirtyBitmap,
): Promise<void> {
  const end = base && skipFilters(base)
  const io = { signal: control.signal, background: true }
  for (let at = 0; at < source.size; ) {
    await control.pausePoint()
    const offset = at
    const run = await retried(control, 'read', () =>
      chainExtentAt(source, offset, source.size - offset, io, end),
    )
    if (!run) throw new CopyError('source', offset, new Error('the status is not known'))
    if (run.depth !== undefined) bitmap.add(at, run.length)
    at += run.length
  }
}

/** Runs work until it succeeds or the policy gives up; undefined when it passes over. */
async function retried<T>(
  control: JobControl,
  operation: 'read' | 'write',
  work: () => Promise<T>,
): Promise<T | undefined> {
  for (;;) {
    try {
      return await work()
    } catch (error) {
      if ((await control.failed(error, operation)) === 'ignore') return undefined
    }
  }
}

function canDeallocate(target: BlockNode): boolean {
  return target.discardMode === 'unmap' && target.layer.capabilities.writeZeroes === 'native'
}
