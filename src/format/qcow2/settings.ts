/** How an image is opened, apart from what its header says. */
import { isPowerOfTwo, MiB } from '../../bytes/range.ts'
import { BlockError } from '../../errors.ts'
import type { FreeReason } from './frees.ts'
import type { Header } from './header.ts'
import type { GuardedKind } from './metadata-guard.ts'

/** Bytes of L2 tables kept in memory, unless the disk needs less or the user wants otherwise. */
const defaultL2CacheBytes = 32 * MiB
const defaultRefcountCacheBytes = 4 * MiB
/** Fewer tables than this make copying from one end of the disk to the other thrash. */
const minL2Tables = 2
const minRefcountBlocks = 4

export interface ImageSettings {
  /** Name of the node, for messages. */
  readonly name: string
  readonly readOnly: boolean
  /** Opened to be checked: not repaired on opening, and writable although it is marked corrupt. */
  readonly check?: boolean
  /** Undefined: as the image says. */
  readonly lazyRefcounts?: boolean
  /** Bytes. Undefined: a default. */
  readonly l2CacheBytes?: number
  readonly refcountCacheBytes?: number
  /** Whole tables are cached; this is taken, and checked, for the sake of those who set it. */
  readonly l2CacheEntryBytes?: number
  /** Tables that were not used for so long are dropped from memory; 0: never. */
  readonly cacheCleanSeconds: number
  /** Metadata that nothing may be written over; see `MetadataGuard`. */
  readonly guarded: readonly GuardedKind[]
  /** A guest's discards leave clusters where they are, marked as zero. */
  readonly keepDiscarded?: boolean
  /** Kinds of freed clusters whose space goes back to the file system. */
  readonly discards: ReadonlySet<FreeReason>
}

export interface CacheCapacity {
  readonly l2Tables: number
  readonly refcountBlocks: number
}

/** Numbers of tables that the caches may hold. */
export function cacheCapacity(settings: ImageSettings, header: Header): CacheCapacity {
  const clusterSize = 2 ** header.clusterBits
  const entry = settings.l2CacheEntryBytes ?? 512
  if (!isPowerOfTwo(entry) || entry < 512 || entry > clusterSize) {
    throw new BlockError(
      'INVALID_ARGUMENT',
      `L2 cache entry size must be a power of two between 512 and the cluster size (${clusterSize})`,
      { node: settings.name, errno: 'EINVAL' },
    )
  }
  const l2Bytes = settings.l2CacheBytes ?? defaultL2CacheBytes
  const refcountBytes = settings.refcountCacheBytes ?? defaultRefcountCacheBytes
  return {
    // More than the disk has is never used; a small disk's cache is small by itself.
    l2Tables: Math.max(minL2Tables, Math.floor(l2Bytes / clusterSize)),
    refcountBlocks: Math.max(minRefcountBlocks, Math.floor(refcountBytes / clusterSize)),
  }
}
