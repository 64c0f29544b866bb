/**
 * Places in the code of drivers at which a blkdebug node below them can act: fail a request, change
 * its state, or let the request wait. Formats say where they are with `child.debugEvent?.(…)`; that
 * is one look at a property where no blkdebug is the child.
 */
import type { Completion } from './layer.ts'

/** QEMU's names, in its order. */
export const debugEvents = [
  'l1_update',
  'l1_grow_alloc_table',
  'l1_grow_write_table',
  'l1_grow_activate_table',
  'l2_load',
  'l2_update',
  'l2_update_compressed',
  'l2_alloc_cow_read',
  'l2_alloc_write',
  'read_aio',
  'read_backing_aio',
  'read_compressed',
  'write_aio',
  'write_compressed',
  'vmstate_load',
  'vmstate_save',
  'cow_read',
  'cow_write',
  'reftable_load',
  'reftable_grow',
  'reftable_update',
  'refblock_load',
  'refblock_update',
  'refblock_update_part',
  'refblock_alloc',
  'refblock_alloc_hookup',
  'refblock_alloc_write',
  'refblock_alloc_write_blocks',
  'refblock_alloc_write_table',
  'refblock_alloc_switch_table',
  'cluster_alloc',
  'cluster_alloc_bytes',
  'cluster_free',
  'flush_to_os',
  'flush_to_disk',
  'pwritev_rmw_head',
  'pwritev_rmw_after_head',
  'pwritev_rmw_tail',
  'pwritev_rmw_after_tail',
  'pwritev',
  'pwritev_zero',
  'pwritev_done',
  'empty_image_prepare',
  'l1_shrink_write_table',
  'l1_shrink_free_l2_clusters',
  'cor_write',
  'cluster_alloc_space',
  'none',
] as const

export type DebugEvent = (typeof debugEvents)[number]

export function isDebugEvent(name: string): name is DebugEvent {
  return (debugEvents as readonly string[]).includes(name)
}

/** Requests that are let wait at an event, each under a tag. */
export interface Breakpoints {
  /** The next request that comes to `event` waits, until `resume(tag)`. Throws on an unknown event. */
  set(event: string, tag: string): void
  /** Forgets breakpoints of that tag and lets its requests go on; false when there were none. */
  remove(tag: string): boolean
  /** Lets the oldest request of that tag go on; false when none waits. */
  resume(tag: string): boolean
  /** Settles when a request waits under the tag. */
  suspended(tag: string): Completion
}
