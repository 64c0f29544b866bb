/** What a drive is told, and what it tells. */
import type { ErrorAction, ErrorPolicy } from '../block/error-policy.ts'
import { BlockError, type BlockErrorCode } from '../errors.ts'

export interface DriveOptions {
  /** As messages name it. */
  readonly name: string
  /** Never writes to its medium. */
  readonly readOnly?: boolean
  /** Media can be ejected and changed; otherwise the first one stays. */
  readonly removable?: boolean
  /** `report` unless given. What is ignored leaves the reader's buffer as it is. */
  readonly onReadError?: ErrorPolicy
  /**
   * Whether what was written may wait for a flush, as with the write cache of a disk; true unless
   * given. Otherwise each write is on stable storage when it settles.
   */
  readonly writeCache?: boolean
  /** Bytes of the guest's sector, a power of two: requests are multiples. 512 unless given. */
  readonly blockSize?: number
  /** For everything but reads; `enospc` unless given: waits for room, and reports the rest. */
  readonly onWriteError?: ErrorPolicy
}

export interface DriveError {
  readonly operation: 'read' | 'write'
  readonly action: ErrorAction
  readonly error: unknown
}

export interface DriveEvents {
  /** A request failed; with `stop` it waits for `resume`, and so do all that come. */
  requestFailed: [DriveError]
  /** The medium came out (true), or one was put in. */
  tray: [open: boolean]
  /** The guest may eject its medium itself, unless locked. */
  locked: [boolean]
}

const mistakes: ReadonlySet<BlockErrorCode> = new Set([
  'INVALID_ARGUMENT',
  'OUT_OF_RANGE',
  'READ_ONLY',
  'PERMISSION',
  'UNSUPPORTED',
])

/** The caller's mistakes: the medium has nothing to do with them. */
export function isMistake(error: unknown): boolean {
  return error instanceof BlockError && mistakes.has(error.code)
}
