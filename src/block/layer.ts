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
import type { DirtyBitmap } from '../bitmap/dirty-bitmap.ts'
import type { ByteRange } from '../bytes/range.ts'
import type { Breakpoints, DebugEvent } from './debug.ts'

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

/** A disk as it was at one moment, while it goes on changing: see `filter/snapshot-access.ts`. */
export interface PreservedDisk {
  readonly size: number
  /** Rejects with `PERMISSION` where the disk of that moment is not kept. */
  read(offset: number, target: Uint8Array, io: Io): Promise<void>
  extentAt(offset: number, length: number, io: Io): Promise<Extent>
  /** Nobody will read the range any more: whole clusters of it need not be kept. */
  discard(offset: number, length: number, io: Io): Promise<void>
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

export interface BlockLayer extends AsyncDisposable, Abilities {
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

/** Children that can be added and taken away while the layer is in use. */
export interface ChildList {
  get(): readonly string[]
  /** The name of the next child. Throws why there can be none. */
  nextName(): string
  add(child: BlockLayer): void
  /** Throws why that child has to stay. */
  checkRemove(name: string): void
  remove(name: string): void
}

/** What only some layers can do. Present means able; nobody asks for a layer's class. */
export interface Abilities {
  readonly image?: ImageFacts
  readonly compressed?: CompressedWriter
  readonly locks?: ImageLocks
  readonly medium?: Medium
  readonly check?: ImageCheck
  readonly backingLink?: BackingLink
  readonly snapshots?: InternalSnapshots
  readonly vmState?: VmState
  readonly bitmaps?: PersistentBitmaps
  readonly amend?: ImageAmend
  /** Told where a request is, when that is blkdebug or passes the news on to one; see `debug.ts`. */
  readonly debugEvent?: (event: DebugEvent) => Completion
  readonly breakpoints?: Breakpoints
  readonly preserved?: PreservedDisk
  /**
   * `ioctl(2)` on the device below, for those who know it: with the address of `argument`, which it
   * may change, or with a number. Absent where there is no device. Made a second time when it fails.
   */
  ioctl?(request: number, argument: Uint8Array | number): Promise<number>
  readonly members?: ChildList
  /**
   * Drops all data of an overlay, so that its backing file shows everywhere; after a commit. Runs
   * alone. Nobody reads between that and what went before.
   */
  makeEmpty?(io: Io): Promise<void>
  /**
   * The size is that of a device: `truncate` takes notice of it, refuses to go beyond with
   * `UNSUPPORTED`, and cannot make the disk smaller. Present where `capabilities.resize` is false.
   */
  readonly sizeIsGiven?: boolean
  /** Shows another backing file, or none, from now on. Nothing is in flight meanwhile. */
  setBacking?(backing: BlockLayer | undefined): void
  /**
   * Begins or ceases to be writable, without changing what is read. Children are writable
   * already, or still. Runs alone; when it rejects everything is as before.
   */
  setReadOnly?(readOnly: boolean, io: Io): Promise<void>
  /**
   * Begins or ceases to go past the page cache, and to flush. Runs alone; when it rejects everything
   * is as before. Absent where that makes no difference.
   */
  setCache?(mode: { readonly direct: boolean; readonly noFlush: boolean }, io: Io): Promise<void>
  /**
   * Drops everything that was read and kept, since another process may have changed the image,
   * its size included. Only called while the layer is read-only and nothing is in flight.
   */
  reread?(io: Io): Promise<void>
  /** Name of the driver, for messages. The graph's edges have it. */
  readonly driver?: string
  /**
   * Grows the layer for what is about to be written behind its end; it may reserve more than that,
   * unseen. Present where that is better than `truncate`.
   */
  extend?(end: number, io: Io): Promise<void>
  /**
   * Stores what the layer shows of a range through its backing file, in whole clusters; a guest
   * sees no change. The graph's edges have it, for all layers.
   */
  populate?(offset: number, length: number, io: Io): Promise<void>
  /**
   * Takes over other options, as the driver's `parse` returned them; only those that the driver
   * calls changeable differ, and no child. Runs alone; when it rejects everything is as before.
   */
  reopen?(options: unknown, io: Io): Completion
  /**
   * The graph waits for all requests in flight: a layer that holds some up lets them go, and holds
   * none, until as many calls of `drainEnds`. Also called before the layer is closed.
   */
  drainBegins?(): void
  drainEnds?(): void
  /** What the layer uses and shares on a child; undefined where that is the usual of the role. */
  childPermissions?(role: ChildRole, needs: Needs): Permissions | undefined
}

/** Facts about a file or image, for people and for `info`. */
export interface ImageFacts {
  /** Name that opens it again: a path or a URL. */
  readonly filename?: string
  /** Allocation unit in bytes, where the format has one. */
  readonly clusterSize?: number
  /** Where, behind the end of the disk, the state of a virtual machine can be kept. */
  readonly vmStateOffset?: number
  /** Bytes that it occupies on its storage. Absent where it cannot be known. */
  allocatedSize?(): Promise<number>
  /** The format's own facts, as QMP's `ImageInfoSpecific` names them. */
  specific?(): { readonly type: string; readonly data: Readonly<Record<string, unknown>> }
  /** The internal snapshots, in the order of their table. */
  snapshots?(): Promise<readonly SnapshotFacts[]>
  /** The image was not closed cleanly. */
  readonly dirty?: boolean
  readonly corrupt?: boolean
  readonly encrypted?: boolean
}

/** Nanoseconds since some beginning; 64 bits of them are more than a number holds. */
export interface ClockTime {
  readonly seconds: number
  /** Below 10^9. */
  readonly nanoseconds: number
}

/** An internal snapshot, as `info` lists it. */
export interface SnapshotFacts {
  readonly id: string
  readonly name: string
  /** Bytes. */
  readonly vmStateSize: number
  readonly date: ClockTime
  /** Time that the guest had run for. */
  readonly vmClock: ClockTime
  /** Instructions that it had executed; undefined where that was not counted. */
  readonly icount?: number
}

export interface CompressedWriter {
  /** Bytes of one unit. Units are written whole, apart from the last of the disk. */
  readonly unit: number
  /**
   * Compresses and stores one unit; `offset` is a multiple of `unit`. Rejects with `UNSUPPORTED`
   * where this image cannot hold what its format can.
   */
  write(offset: number, source: Uint8Array, io: WriteIo): Completion
}

/** Locks on the image file that other processes see; compatible with QEMU's. */
export interface ImageLocks {
  /** Takes what is missing and lets go of the rest, or throws `BUSY` and changes nothing. */
  update(uses: ReadonlySet<Permission>, shares: ReadonlySet<Permission>): void
}

/** A drive of this machine whose media come and go. Requests fail with `ENOMEDIUM` without one. */
export interface Medium {
  /** Also takes notice of another medium's size. */
  isInserted(): Promise<boolean>
  /** What `isInserted` said last. */
  readonly wasInserted: boolean
  /** Opens the tray, or closes it. */
  eject(open: boolean): Promise<void>
  /** Whether the drive refuses to open its tray. */
  lock(locked: boolean): Promise<void>
}

export interface CheckOptions extends Io {
  readonly repair: 'none' | 'leaks' | 'all'
}

/** Result of a consistency check; the names are those of QMP's `ImageCheck`. */
export interface CheckResult {
  readonly corruptions: number
  readonly leaks: number
  readonly checkErrors: number
  readonly corruptionsFixed: number
  readonly leaksFixed: number
  /** Bytes, offset of the first byte behind the last used cluster. */
  readonly imageEndOffset: number
  readonly totalClusters: number
  readonly allocatedClusters: number
  readonly fragmentedClusters: number
  readonly compressedClusters: number
  /** One line for each fault, in the order found, without a newline. */
  readonly messages: readonly string[]
}

export interface ImageCheck {
  run(options: CheckOptions): Promise<CheckResult>
}

/** The backing file that an image names. */
export interface BackingLink {
  /** As recorded in the image; undefined when it has none. */
  readonly recorded?: { readonly filename: string; readonly format?: string }
  /** Rewrites the record; `undefined` removes it. The open child is not touched. */
  change(
    to: { readonly filename: string; readonly format?: string } | undefined,
    io: Io,
  ): Promise<void>
}

/** What a new internal snapshot is called, and what was going on when it was taken. */
export interface NewSnapshot {
  /** Cut off behind 255 bytes. */
  readonly name: string
  /** One more than the highest number among the ids, unless given. */
  readonly id?: string
  /** Bytes of the VM state that lies in the active state area and belongs to the snapshot. */
  readonly vmStateSize?: number
  readonly date?: ClockTime
  readonly vmClock?: ClockTime
  readonly icount?: number
}

/** Snapshots inside the image. Listing them is `image.snapshots()`. Each verb runs alone. */
export interface InternalSnapshots {
  create(snapshot: NewSnapshot, io: Io): Promise<SnapshotFacts>
  /** Makes the disk, its size included, what it was; `selector` is an id or else a name. */
  apply(selector: string, io: Io): Promise<void>
  delete(selector: string, io: Io): Promise<void>
  /** Shows a read-only image as it was, until it is closed; `VmState` reads the snapshot's. */
  open(selector: string, io: Io): Promise<void>
}

/**
 * Bytes behind the end of the disk, at their own offsets from 0: where QEMU keeps a machine's state.
 * Requests may have any alignment; overlapping ones are not in flight together. What was written is
 * on stable storage after a flush of the layer, and moves into the snapshot that `create` makes of it.
 */
export interface VmState {
  /** Fills `target`; what was never written reads as zeroes. */
  read(offset: number, target: Uint8Array, io: Io): Completion
  write(offset: number, source: Uint8Array, io: WriteIo): Completion
}

/** What an image stores of a dirty bitmap besides its bits. */
export interface StoredBitmap {
  readonly name: string
  /** Bytes of the disk that one bit stands for; a power of two from 512 to 2 GiB. */
  readonly granularity: number
  /** Recording continues as soon as the image is opened for writing. */
  readonly auto: boolean
  /** Was being written to when the image was last closed, so its bits cannot be relied on. */
  readonly inUse: boolean
}

/**
 * Dirty bitmaps inside the image. The graph loads them into memory when the node opens
 * (`graph/persistent-bitmaps.ts`), and stores all of them when it closes. Verbs run one at a time.
 */
export interface PersistentBitmaps {
  /** Whether this image, as it is, can have any. */
  readonly able: boolean
  /** In the order in which they are stored. */
  list(): readonly StoredBitmap[]
  /** Adds what is stored under its name to `bitmap`, which has the stored granularity. */
  load(bitmap: DirtyBitmap, io: Io): Promise<void>
  /** Marks all as in use, on stable storage: before the first write of whoever opened the image. */
  claim(io: Io): Promise<void>
  /**
   * Stores these instead of all that is stored, marked as not in use; what was stored of an
   * inconsistent one stays. The old ones are there until the new ones are complete.
   */
  store(bitmaps: readonly DirtyBitmap[], io: Io): Promise<void>
  remove(name: string, io: Io): Promise<void>
  /** Throws why a bitmap could not be stored beside `others`, which will be stored, if it could not. */
  checkNew(bitmap: DirtyBitmap, others: readonly DirtyBitmap[]): void
}

export interface AmendOptions extends Io {
  /** As `create -o` takes them; only what is to change. */
  readonly options: Readonly<Record<string, unknown>>
  /** Do what may lose data: erase the last keyslot that opens the image. */
  readonly force?: boolean
  /** Bytes done and to do. */
  readonly onProgress?: (current: number, total: number) => void
}

/** Changes options of an existing image. Runs alone. */
export interface ImageAmend {
  run(options: AmendOptions): Promise<void>
}

/**
 * What a child is to its parent. It decides the permissions on the edge and the flags that the
 * child inherits; the child's name in the graph is the role's, `filtered` children being called
 * `file` as in QEMU, unless the parent names it. `data` is one of several children that hold the
 * disk, or something beside it (quorum's and blkverify's, the log of blklogwrites).
 */
export type ChildRole = 'file' | 'data-file' | 'backing' | 'filtered' | 'target' | 'data'

/** What the user of a node may do to it, and what it lets others do meanwhile. */
export type Permission = 'consistentRead' | 'write' | 'writeUnchanged' | 'resize'

/** What one user of a node does (`uses`) and bears others doing meanwhile (`shares`). */
export interface Permissions {
  readonly uses: ReadonlySet<Permission>
  readonly shares: ReadonlySet<Permission>
}

/** What the users of a node use and share together. */
export interface Needs extends Permissions {
  /** Whether there are users, who may need nothing. */
  readonly used: boolean
}

export const allPermissions: readonly Permission[] = [
  'consistentRead',
  'write',
  'writeUnchanged',
  'resize',
]

export const everyPermission: ReadonlySet<Permission> = new Set(allPermissions)
export const noPermission: ReadonlySet<Permission> = new Set()

export function permissionSet(...permissions: Permission[]): ReadonlySet<Permission> {
  return new Set(permissions)
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
