/**
 * The data-path contract. The author of a protocol or filter implements `BlockLayer`; everything
 * between a caller and a layer (alignment, splitting, bounds, counting, serialising) happens once,
 * in `graph/node.ts`, so requests arrive here aligned, inside the disk and within `limits`.
 *
 * Verbs return a `Completion`: nothing when the work was done on the spot, a promise when
 * something has to be waited for. An `async` method is a valid implementation; hot paths that can
 * answer at once (page cache, cached tables) save their callers the promise. Errors of a
 * synchronous answer are thrown, of a promise rejected; callers that do not `await` handle both.
 *
 * A buffer belongs to the callee until the call has settled and to its owner afterwards; nobody
 * keeps it.
 */
import type { ByteRange } from '../bytes/range.ts'
import type { Abilities } from './abilities.ts'

/** Settled already, or a promise of it. */
export type Completion = void | Promise<void>

/** Every request can be aborted; it then rejects with `signal.reason`, or finishes first. */
export interface Io {
  readonly signal: AbortSignal
  /**
   * Nobody in this process waits for anything else: the request may hold the event loop up for as
   * long as it takes, which saves two trips between threads. For tools that do one thing.
   */
  readonly blocking?: boolean
  /** A job's work, which may wait for requests that somebody waits for. */
  readonly background?: boolean
}

export interface FlushIo extends Io {
  /**
   * Part of a write with force unit access, which is not counted as written yet: the first since
   * the last flush, or a later one. For layers that tell people of flushes as QEMU counts them.
   */
  readonly forWrite?: 'first' | 'later'
}

export interface WriteIo extends Io {
  /** Force unit access: on stable storage before the call settles. */
  readonly fua: boolean
  /** The caller promises that what a guest reads stays the same (copy-on-read, rewrites). */
  readonly unchanged: boolean
}

export interface ZeroIo extends WriteIo {
  /** The range may be deallocated as long as it reads as zeroes. */
  readonly mayUnmap: boolean
  /** Fail with `UNSUPPORTED` rather than write zeroes byte by byte. */
  readonly fastOnly: boolean
}

/** How much of the space that a disk gains is taken at once: see QEMU's `preallocation`. */
export type Preallocation = 'off' | 'metadata' | 'falloc' | 'full'

export interface ResizeIo extends Io {
  /** For growing only. Unless given, `off`. */
  readonly preallocation?: Preallocation
}

/** How well a layer does something: not at all, by other means, or by itself. */
export type Support = 'none' | 'emulated' | 'native'

export interface Capabilities {
  readonly write: boolean
  readonly resize: boolean
  /** Whether unallocated ranges can show a backing file. */
  readonly backing: boolean
  readonly fua: Support
  readonly writeZeroes: Support
  readonly discard: Support
  readonly extents: Support
  /** Whether a newly created image, and space gained by `truncate`, reads as zeroes. */
  readonly zeroInit: boolean
}

/** All in bytes. Alignments are powers of two; requests are multiples of them. */
export interface Limits {
  /** Offsets and lengths of reads and writes. */
  readonly alignment: number
  /** Address of the buffers handed over; layers bounce others themselves. */
  readonly memoryAlignment: number
  /** Ranges of this alignment can be zeroed without a read-modify-write. */
  readonly zeroAlignment: number
  readonly discardAlignment: number
  /** The length that moves data best: a cluster, a stripe. */
  readonly preferredLength: number
  /** Longer reads and writes are split. */
  readonly maxTransfer: number
}

/** Bytes of a lower layer, where a run of data lies. */
export interface HostRange extends ByteRange {
  readonly layer: BlockLayer
  /** Whether the bytes may be overwritten in place. */
  readonly writable: boolean
  /** Parts of it may be holes of the layer that are worth asking for (preallocated images). */
  readonly sparse?: boolean
  /** `layer` deciphers: below it the bytes are no use to anybody else. */
  readonly enciphered?: boolean
}

/** A run of bytes with one status. */
export type Extent = ByteRange &
  (
    | { readonly kind: 'data'; readonly host?: HostRange }
    /** Compressed or encrypted: data that exists nowhere as plain bytes. */
    | { readonly kind: 'encoded' }
    | { readonly kind: 'zero'; readonly allocated: boolean; readonly host?: HostRange }
    /**
     * Not allocated here: the backing file decides, or zeroes where there is none. `host`: space
     * that is kept for it.
     */
    | { readonly kind: 'backing'; readonly host?: HostRange }
  )

/** Layers that forward have all members, with undefined for what the layer below is not able to do. */
type OrUndefined<Members> = { [Name in keyof Members]: Members[Name] | undefined }

export interface BlockLayer extends AsyncDisposable, OrUndefined<Abilities> {
  /** Bytes; a safe integer. Not necessarily a multiple of `limits.alignment`. */
  readonly size: number
  readonly capabilities: Capabilities
  readonly limits: Limits
  /** Fills `target`. Past the end of an unaligned `size`, zeroes. */
  read(offset: number, target: Uint8Array, io: Io): Completion
  write(offset: number, source: Uint8Array, io: WriteIo): Completion
  writeZeroes(offset: number, length: number, io: ZeroIo): Completion
  /** A hint: the range may read as anything of old or zeroes afterwards. */
  discard(offset: number, length: number, io: Io): Completion
  /** Everything that settled before is on stable storage afterwards. */
  flush(io: FlushIo): Completion
  /**
   * Grows (new space as `capabilities.zeroInit` says) or shrinks. A layer that cannot preallocate in
   * the way that is asked for says `UNSUPPORTED`, or does not care where it needs no space.
   */
  truncate(size: number, io: ResizeIo): Completion
  /**
   * The first run at `offset`, where 0 < its length <= `length`. It need not be the longest one:
   * neighbouring runs may have the same status.
   */
  extentAt(offset: number, length: number, io: Io): Extent | Promise<Extent>
}

/** A signal that never fires, for callers that do not cancel. */
export const neverAborted: AbortSignal = new AbortController().signal

/** Requests without anything special. Shared and frozen: the hot path allocates none. */
export const plainIo: Io = Object.freeze({ signal: neverAborted })
export const plainWriteIo: WriteIo = Object.freeze({
  signal: neverAborted,
  fua: false,
  unchanged: false,
})
export const plainZeroIo: ZeroIo = Object.freeze({
  ...plainWriteIo,
  mayUnmap: false,
  fastOnly: false,
})
