/** Metadata contexts: what NBD_CMD_BLOCK_STATUS can tell about an export. */
import type { BlockLayer, Extent, Io } from '../../block/layer.ts'
import { NBD_STATE_HOLE, NBD_STATE_ZERO } from '../../wire/nbd/constants.ts'

/** A run of bytes with one status. */
export interface StatusRun {
  readonly length: number
  /** As the context defines them; 32 bits. */
  readonly flags: number
}

/** One namespace-and-name that clients can select, `base:allocation`, `qemu:dirty-bitmap:b0`. */
export interface MetaContext {
  readonly name: string
  /** The first run at `offset`, where 0 < its length <= `length`. */
  statusAt(offset: number, length: number, io: Io): StatusRun | Promise<StatusRun>
}

/** The context that every export has, from extents with backing files looked through. */
export function allocationContext(extentAt: BlockLayer['extentAt']): MetaContext {
  return {
    name: 'base:allocation',
    statusAt(offset, length, io) {
      const extent = extentAt(offset, length, io)
      return extent instanceof Promise ? extent.then(allocationOf) : allocationOf(extent)
    },
  }
}

function allocationOf(extent: Extent): StatusRun {
  return { length: extent.length, flags: allocationFlags(extent) }
}

function allocationFlags(extent: Extent): number {
  if (extent.kind === 'backing') return NBD_STATE_HOLE + NBD_STATE_ZERO
  if (extent.kind !== 'zero') return 0
  return extent.allocated ? NBD_STATE_ZERO : NBD_STATE_HOLE + NBD_STATE_ZERO
}

/**
 * Contexts of an export that a query of NBD_OPT_LIST_META_CONTEXT finds: by full name, or all of
 * a namespace (`base:`, `qemu:`, `qemu:dirty-bitmap:`). No query at all finds every one.
 */
export function listContexts(
  contexts: readonly MetaContext[],
  queries: readonly string[],
): MetaContext[] {
  if (queries.length === 0) return [...contexts]
  return contexts.filter(({ name }) =>
    queries.some((query) => name === query || (query.endsWith(':') && name.startsWith(query))),
  )
}

/** Those that NBD_OPT_SET_META_CONTEXT selects: by full name alone. */
export function selectContexts(
  contexts: readonly MetaContext[],
  queries: readonly string[],
): MetaContext[] {
  return contexts.filter(({ name }) => queries.includes(name))
}
