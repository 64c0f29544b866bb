/**
 * What the operating system can do and Node cannot: holes, preallocation, image locks, reads that
 * only ask the page cache, aligned memory. Two implementations: `koffi-sys.ts` calls the C
 * library, `node-sys.ts` does without. `supported` says what this one is able to do; a caller has
 * a way round everything that is not.
 *
 * Errors are plain system errors with an errno name in `code`; the layers above say what they
 * were doing. Everything here runs on the main thread only.
 */

import type { SharedMemorySys } from './shared-memory.ts'

/**
 * `punch` deallocates, `zero` makes the range read as zeroes and leaves it allocated, `allocate`
 * reserves space and leaves the data alone. None but `zero-extend` and `allocate` move the end.
 */
export type AllocateMode = 'punch' | 'zero' | 'zero-extend' | 'allocate'

export interface Supported {
  /** `seekData` and `seekHole`. */
  readonly holes: boolean
  /** `fallocate`; a file system may still answer `EOPNOTSUPP` to one mode or all. */
  readonly fallocate: boolean
  /** `shareLock`, `unlock` and `lockedElsewhere`. */
  readonly locks: boolean
  /** `readCached`; a file system may still not offer it. */
  readonly cachedReads: boolean
  readonly ioctl: boolean
  readonly keyring: boolean
  /** `mountFuse` and `unmount`, `untilReadable`, `eventDescriptor`, `socketPair` and `receiveDescriptor`. */
  readonly fuse: boolean
}

export interface Sys {
  readonly name: 'koffi' | 'node'
  readonly supported: Supported

  /** Offset of the first data at or behind `offset`; undefined when only a hole follows. */
  seekData(fd: number, offset: number): number | undefined
  /** Offset of the first hole at or behind `offset`, the end of the file counting as one. */
  seekHole(fd: number, offset: number): number | undefined
  /** Bytes; of a block device its capacity. */
  seekEnd(fd: number): number

  /** Runs in the thread pool. `length` > 0. */
  fallocate(fd: number, mode: AllocateMode, offset: number, length: number): Promise<void>

  /**
   * Gives the system back what memory this process has freed, which the C library keeps for another
   * time; a hint, which never fails. 0.1 s for 2 GiB, beside the event loop.
   */
  returnFreeMemory(): Promise<void>

  /**
   * Begins to bring what has been written to a range to the disk; a hint, which never fails. Settles
   * when it has begun, which takes as long as the disk's queue is full.
   */
  startWriteback(fd: number, offset: number, length: number): Promise<void>

  /**
   * Reads as much from the start of the range as the page cache holds and never waits for a disk.
   * Returns the number of bytes (0 at the end of the file), `wouldWait` when the first is not
   * cached, or `notOffered` when this file system cannot tell.
   */
  readCached(fd: number, target: Uint8Array, offset: number): number

  /** A shared OFD lock on one byte; false when someone holds it exclusively. */
  shareLock(fd: number, offset: number): boolean
  unlock(fd: number, offset: number): void
  /** Whether another open file holds any lock on the byte. */
  lockedElsewhere(fd: number, offset: number): boolean

  /**
   * `ioctl` with a pointer to `argument`, which it may change, or with a number. Returns the call's
   * result. Runs in the thread pool; one that fails is made a second time to learn why, so it must be
   * of a kind that may be repeated.
   */
  ioctl(fd: number, request: number, argument: Uint8Array | number): Promise<number>

  /** Bytes of a key of the kernel's key rings; `EFBIG` when there are more than `maxLength`. */
  readKey(serial: number, maxLength: number): Uint8Array

  /** Whether a read would return at once, with bytes, the end or an error; false if unknown. */
  isReadable(fd: number): boolean

  /**
   * Settles when a read of one of them may return at once, or after a second. It keeps a thread of the
   * pool until then; an event of one's own (`eventDescriptor`) among them ends it.
   */
  untilReadable(fds: readonly number[]): Promise<void>

  /** A new descriptor that is readable once a number (8 bytes) is written to it, until it is read. */
  eventDescriptor(): number

  /** Two stream sockets that are connected with each other. */
  socketPair(): readonly [number, number]

  /**
   * Takes the descriptor that comes with the next byte of a socket, and makes it non-blocking; undefined
   * when the other end has closed. Waits in the thread pool.
   */
  receiveDescriptor(socket: number): Promise<number | undefined>

  /** For memory that another process shares with us; made when first asked for. */
  readonly sharedMemory?: SharedMemorySys

  /** Mounts the file system behind an open `/dev/fuse` at `target`, without its set-user bits and devices. */
  mountFuse(target: string, options: string): void
  /** Takes a mount away from its place, now; it ends with its last user. Runs in the thread pool. */
  unmount(target: string): Promise<void>

  /** Lets a pipe hold `length` bytes, where that is permitted; anything else stays as it is. */
  growPipe(fd: number, length: number): void

  /** Zeroed memory that starts at a multiple of `alignment` (a power of two up to 64 KiB). */
  alignedMemory(length: number, alignment: number): Uint8Array
  /** Whether the first byte is known to lie at a multiple of `alignment`. */
  isAlignedMemory(bytes: Uint8Array, alignment: number): boolean
}

export const wouldWait = -1
export const notOffered = -2
