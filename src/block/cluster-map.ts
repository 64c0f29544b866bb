/**
 * What a cluster format (qcow2, vhdx, vdi, vmdk, …) writes instead of a `BlockLayer`: it keeps the
 * tables, and the engine in `cluster-layer.ts` moves the data, copies on write, and keeps requests
 * on the same cluster apart.
 *
 * What the engine promises to the map:
 * - ranges are inside the disk. `discard` and `writeEncoded` get whole clusters, `zero` whole
 *   subclusters, of which the disk's last may be cut short by its size; and none of a cluster that
 *   is encoded but all of it;
 * - `allocate`, `link`, `zero`, `discard`, `writeEncoded` of one cluster never run at the same
 *   time as each other or as a read or write of that cluster's data; those of different clusters
 *   do, so the map guards what they share (refcounts, tables) itself;
 * - `truncate` and the verbs of `abilities.snapshots` run alone.
 */
import type { ByteRange } from '../bytes/range.ts'
import type { Abilities, AmendOptions } from './abilities.ts'
import type {
  Completion,
  Extent,
  HostRange,
  Io,
  Limits,
  ResizeIo,
  WriteIo,
  ZeroIo,
} from './layer.ts'

/** The engine says how the size of the disk is changed, where the caller does not. */
export type ResizingOptions = AmendOptions & Required<Pick<AmendOptions, 'resize'>>
export interface ResizingAmend {
  run(options: ResizingOptions): Promise<void>
}

export interface ClusterMap extends AsyncDisposable {
  /** Bytes that the guest sees. */
  readonly size: number
  readonly limits: Limits
  /** What is allocated as a whole, and changed by one request at a time. Bytes; a power of two. */
  readonly clusterSize: number
  /**
   * What has a status of its own: the cluster, or an equal part of it where a format keeps track of
   * parts. Nothing smaller is copied on write or marked as zero. Bytes; a power of two.
   */
  readonly subclusterSize: number
  readonly readOnly: boolean
  /** Whether `zero` can mark clusters instead of having zeroes written. */
  readonly zeroClusters: boolean
  /** Whether what `discard` drops reads as zeroes where there is no backing file. */
  readonly dropsToZero: boolean
  /** Offered to callers as they are, apart from `snapshots`, whose verbs the engine runs alone. */
  readonly abilities: Omit<Abilities, 'amend' | 'compressed' | 'vmState'> & {
    readonly amend?: ResizingAmend
  }
  /** Where the map can keep the state of a virtual machine; see `StateArea`. */
  readonly stateArea?: StateArea
  /** Of the image file, for what the engine does that is not on one host range. */
  readonly debugEvent?: Abilities['debugEvent']
  /**
   * The first run at `offset`, at most `length` long, as long as the cached tables tell. Answers
   * at once when they are cached. `host.writable` says that the run may be overwritten in place.
   */
  map(offset: number, length: number, io: Io): Extent | Promise<Extent>
  /**
   * Host space for a write to [`offset`, `offset + length`), whose first byte is not writable in
   * place. It may cover only the first part of the range: see `Allocation.guest`.
   */
  allocate(offset: number, length: number, io: Io): Allocation | Promise<Allocation>
  /** Makes whole subclusters read as zeroes; deallocates them if `io.mayUnmap`. */
  zero(offset: number, length: number, io: ZeroIo): Completion
  /**
   * Drops whole clusters. What they read as afterwards is the format's choice, never stale data.
   * `backed`: there is a backing file, whatever the image records.
   */
  discard(offset: number, length: number, io: Io, backed: boolean): Completion
  /** Decodes [`offset`, `offset + target.length`), a part of a run that `map` called `encoded`. */
  readEncoded?(offset: number, target: Uint8Array, io: Io): Completion
  /** Stores one whole cluster compressed, or plainly where that is no smaller. */
  writeEncoded?(offset: number, source: Uint8Array, io: WriteIo): Completion
  /**
   * `endsBlank`: the disk ends within a cluster that reads as zeroes and of which nothing is stored.
   * Not said where there are subclusters.
   */
  truncate(size: number, io: ResizeIo, endsBlank: boolean): Completion
  /** Begins or ceases to be writable; runs alone. When it rejects everything is as before. */
  setReadOnly?(readOnly: boolean, io: Io): Promise<void>
  /** See `BlockLayer.reread`. */
  reread?(io: Io): Promise<void>
  /** See `BlockLayer.reopen`. */
  reopen?(options: unknown, io: Io): Completion
  /** Data and metadata on stable storage, in the order that a crash between cannot corrupt. */
  flush(io: Io): Completion
}

/**
 * Bytes behind the end of the disk, mapped and allocated with the verbs above at `offset` and
 * behind. They show no backing file.
 */
export interface StateArea {
  /** First byte; moves when the size of the disk changes. */
  readonly offset: number
  /** Whether the tables reach up to `end`, as they have to before anything is allocated there. */
  reaches(end: number): boolean
  /** Makes them reach. Runs alone. */
  extend(end: number, io: Io): Promise<void>
}

/**
 * Space that nothing points at yet. Write the data to `host` first, then `link`: only afterwards
 * does the guest see it. An allocation that will not be linked is abandoned, which gives its
 * clusters back. One of the two is called, once.
 */
export interface Allocation {
  /**
   * What has to be written before `link`: begins at or before the request, and consists of whole
   * subclusters, of which the disk's last may be cut short.
   */
  readonly guest: ByteRange
  /** Where that lies, of the same length. */
  readonly host: HostRange
  /** `host` reads as zeroes already, so zeroes around the data need not be written. */
  readonly zeroed: boolean
  /** Zeroes around the data were left out: space for all of `host` is to be taken some time. */
  leftOut?(): void
  link(io: Io): Completion
  abandon(): Completion
}
