/** One export: a layer under a name, with what clients are told about it. */

import type { BlockLayer, Extent } from '../../block/layer.ts'
import { isPowerOfTwo, KiB } from '../../bytes/range.ts'
import { BlockError } from '../../errors.ts'
import {
  NBD_FLAG_BLOCK_STATUS_PAYLOAD,
  NBD_FLAG_CAN_MULTI_CONN,
  NBD_FLAG_HAS_FLAGS,
  NBD_FLAG_READ_ONLY,
  NBD_FLAG_SEND_CACHE,
  NBD_FLAG_SEND_DF,
  NBD_FLAG_SEND_FAST_ZERO,
  NBD_FLAG_SEND_FLUSH,
  NBD_FLAG_SEND_FUA,
  NBD_FLAG_SEND_TRIM,
  NBD_FLAG_SEND_WRITE_ZEROES,
  NBD_MAX_MINIMUM_BLOCK,
  NBD_MAX_STRING,
} from '../../wire/nbd/constants.ts'
import { allocationContext, type MetaContext } from './contexts.ts'
import { maxRequestLength } from './limits.ts'
import type { ReplyKind } from './negotiation.ts'

export interface ExportOptions {
  /** At most 4096 bytes of UTF-8. The empty name is the default export. */
  readonly name: string
  /** Stays the caller's, who closes it after the export has been removed. */
  readonly layer: BlockLayer
  readonly writable: boolean
  /** A text for people, at most 4096 bytes. */
  readonly description?: string
  /** Contexts beside `base:allocation`: dirty bitmaps, allocation depth. */
  readonly contexts?: readonly MetaContext[]
  /**
   * Whether a client may spread its requests over several connections; true by default. It is
   * safe, since all connections share one layer and a flush of one covers the writes of all.
   */
  readonly multiConn?: boolean
  /**
   * The first run at an offset with backing files looked through, so that `backing` means zeroes.
   * Unless given the layer is asked, and what its backing file may show counts as data.
   */
  readonly chainExtentAt?: BlockLayer['extentAt']
  /** Offsets and lengths of requests must be multiples of it. An edge of the graph takes any. */
  readonly alignment?: number
  /** What clients are told instead, as the smallest length: requests of any other are served all the same. */
  readonly announcedAlignment?: number
}

/** Smallest length and alignment of requests, the one that works best, and the longest. */
export interface BlockSizes {
  readonly minimum: number
  readonly preferred: number
  readonly maximum: number
}

export class NbdExport {
  readonly name: string
  readonly description: string
  readonly layer: BlockLayer
  readonly writable: boolean
  readonly blockSizes: BlockSizes
  /** What clients are told of them. */
  readonly announced: BlockSizes
  readonly contexts: readonly MetaContext[]
  /** The first run at an offset; `backing` reads as zeroes. */
  readonly extentAt: BlockLayer['extentAt']
  readonly #multiConn: boolean

  /** Throws `INVALID_ARGUMENT` or `READ_ONLY` when the options do not fit together. */
  constructor(options: ExportOptions) {
    const { name, layer, writable, description = '', contexts = [], multiConn = true } = options
    for (const text of [name, description, ...contexts.map((context) => context.name)]) {
      checkString(text)
    }
    if (writable && !layer.capabilities.write) {
      throw new BlockError('READ_ONLY', `export '${name}': the disk is read-only`)
    }
    this.name = name
    this.description = description
    this.layer = layer
    this.writable = writable
    this.extentAt = options.chainExtentAt ?? ownExtentAt(layer)
    this.contexts = [allocationContext(this.extentAt), ...contexts]
    this.blockSizes = blockSizesOf(layer, options.alignment ?? 1)
    const { announcedAlignment: minimum = this.blockSizes.minimum } = options
    this.announced = { ...this.blockSizes, minimum }
    this.#multiConn = multiConn
  }

  /** Flags as a client gets them, by the replies and contexts that it has agreed on. */
  transmissionFlags(replies: ReplyKind, withContexts: boolean): number {
    let flags = NBD_FLAG_HAS_FLAGS + NBD_FLAG_SEND_FLUSH + NBD_FLAG_SEND_FUA + NBD_FLAG_SEND_CACHE
    if (replies !== 'simple') flags += NBD_FLAG_SEND_DF
    if (replies === 'extended' && withContexts) flags += NBD_FLAG_BLOCK_STATUS_PAYLOAD
    if (this.#multiConn) flags += NBD_FLAG_CAN_MULTI_CONN
    if (!this.writable) return flags + NBD_FLAG_READ_ONLY
    flags += NBD_FLAG_SEND_TRIM
    if (this.layer.capabilities.writeZeroes === 'none') return flags
    return flags + NBD_FLAG_SEND_WRITE_ZEROES + NBD_FLAG_SEND_FAST_ZERO
  }
}

/** What lies below the layer is not known here: it may be data. */
function ownExtentAt(layer: BlockLayer): BlockLayer['extentAt'] {
  if (layer.capabilities.extents === 'none') {
    return (offset, length) => ({ kind: 'data', offset, length })
  }
  return (offset, length, io) => {
    const extent = layer.extentAt(offset, length, io)
    return extent instanceof Promise ? extent.then(backingAsData) : backingAsData(extent)
  }
}

function backingAsData(extent: Extent): Extent {
  if (extent.kind !== 'backing') return extent
  return { kind: 'data', offset: extent.offset, length: extent.length }
}

function blockSizesOf({ limits }: BlockLayer, minimum: number): BlockSizes {
  if (!isPowerOfTwo(minimum) || minimum > NBD_MAX_MINIMUM_BLOCK) {
    throw new BlockError(
      'UNSUPPORTED',
      `NBD cannot serve a disk of ${minimum}-byte blocks; at most ${NBD_MAX_MINIMUM_BLOCK}`,
    )
  }
  // The smallest length that needs no read-modify-write, not the one that moves data best.
  const preferred = Math.max(limits.alignment, minimum, 4 * KiB)
  return { minimum, preferred, maximum: maxRequestLength }
}

function checkString(text: string): void {
  const length = Buffer.byteLength(text)
  if (length > NBD_MAX_STRING || text.includes('\0')) {
    throw new BlockError(
      'INVALID_ARGUMENT',
      `'${text.slice(0, 64)}' cannot be an NBD name or description: at most ${NBD_MAX_STRING} bytes, without NUL`,
    )
  }
}
