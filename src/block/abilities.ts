/**
 * What only some layers can do, and the facts that only some have: `BlockLayer` has them as optional
 * members, and whoever wants one asks whether it is there.
 */
import type { DirtyBitmap } from '../bitmap/dirty-bitmap.ts'
import type { Breakpoints, DebugEvent } from './debug.ts'
import type { BlockLayer, Completion, Extent, Io, WriteIo } from './layer.ts'
import type { ChildRole, Needs, Permission, Permissions } from './permission.ts'

/** A disk as it was at one moment, while it goes on changing: see `filter/snapshot-access.ts`. */
export interface PreservedDisk {
  readonly size: number
  /** Rejects with `PERMISSION` where the disk of that moment is not kept. */
  read(offset: number, target: Uint8Array, io: Io): Promise<void>
  extentAt(offset: number, length: number, io: Io): Promise<Extent>
  /** Nobody will read the range any more: whole clusters of it need not be kept. */
  discard(offset: number, length: number, io: Io): Promise<void>
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

/** Whose size others decide about; as messages call them. */
export type GivenSize = 'device files' | 'NBD nodes'

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
   * The size is that of a device, or a server's affair: `truncate` takes notice of it, refuses to go beyond
   * with `UNSUPPORTED`, and cannot make the disk smaller. Present where `capabilities.resize` is false.
   */
  readonly sizeIsGiven?: GivenSize
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
   * Has storage keep space for a range inside the layer, holes included, whose bytes stay as they are.
   * Present where that can be asked for; not all storage does it.
   */
  occupy?(offset: number, length: number, io: Io): Promise<void>
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
  /**
   * Changes the size of the disk, where that is one of the options: for a caller who holds a node, the
   * node's own `truncate`, which takes the node's bitmaps along. The layer's own by default.
   */
  readonly resize?: (size: number) => Completion
}

/** Changes options of an existing image. Runs alone. */
export interface ImageAmend {
  run(options: AmendOptions): Promise<void>
}
