/**
 * The one error class of varve. Callers branch on `code`; people read `message`, which names the
 * thing, the number and, where there is one, the remedy.
 */

export type BlockErrorCode =
  /** The caller asked nonsense. */
  | 'INVALID_ARGUMENT'
  /** The bytes are not of the format they were opened as. */
  | 'NOT_RECOGNISED'
  /** Bytes contradict the format. */
  | 'CORRUPT_IMAGE'
  /** Valid, but varve cannot do it. */
  | 'UNSUPPORTED'
  | 'OUT_OF_RANGE'
  | 'NO_SPACE'
  | 'READ_ONLY'
  /** An edge of the graph, an image lock, or the open policy forbids it. */
  | 'PERMISSION'
  /** Not at this moment. */
  | 'BUSY'
  /** The node, connection or job is gone. */
  | 'CLOSED'
  /** The other end of a conversation broke the protocol. */
  | 'PEER'
  /** The system failed; the errno is in `errno` and the original error in `cause`. */
  | 'IO'

export interface BlockErrorDetails {
  /** Name of the graph node concerned. */
  readonly node?: string
  readonly path?: string
  /** Byte offset of the fault: in the file for metadata, in the disk for data. */
  readonly offset?: number
  /** The system's name of the error, `ENOENT`. Taken from `cause` when left out. */
  readonly errno?: string
  readonly cause?: unknown
}

export class BlockError extends Error {
  override readonly name = 'BlockError'
  readonly code: BlockErrorCode
  readonly node?: string
  readonly path?: string
  readonly offset?: number
  readonly errno?: string

  constructor(code: BlockErrorCode, message: string, details: BlockErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause })
    this.code = code
    this.node = details.node
    this.path = details.path
    this.offset = details.offset
    this.errno = details.errno ?? errnoOf(details.cause)
  }
}

/** What a caller has asked is nonsense: an `INVALID_ARGUMENT`. */
export function invalid(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { errno: 'EINVAL' })
}

/** What is valid, but not offered: an `UNSUPPORTED`. */
export function unsupported(message: string): BlockError {
  return new BlockError('UNSUPPORTED', message, { errno: 'ENOTSUP' })
}

/** The errno name that an error carries, or undefined. */
export function errnoOf(error: unknown): string | undefined {
  if (error instanceof BlockError) return error.errno
  if (error instanceof Error && 'code' in error && typeof error.code === 'string') {
    return /^E[A-Z0-9]+$/.test(error.code) && !error.code.startsWith('ERR_')
      ? error.code
      : undefined
  }
  return undefined
}

/** System errors that have a code of their own; all others are `IO`. */
const codeByErrno: Readonly<Record<string, BlockErrorCode>> = {
  ENOSPC: 'NO_SPACE',
  EDQUOT: 'NO_SPACE',
  EFBIG: 'NO_SPACE',
  EROFS: 'READ_ONLY',
  EACCES: 'PERMISSION',
  EPERM: 'PERMISSION',
}

/** Wraps a failure of the operating system. A `BlockError` passes through untouched. */
export function systemError(
  error: unknown,
  what: string,
  details: BlockErrorDetails = {},
): BlockError {
  if (error instanceof BlockError) return error
  const errno = errnoOf(error)
  const code = (errno && codeByErrno[errno]) || 'IO'
  const reason = errno ? strerror(errno) : error instanceof Error ? error.message : String(error)
  return new BlockError(code, `${what}: ${reason}`, { ...details, cause: error })
}

/** The same failure with words in front of its message; anything but a `BlockError` is untouched. */
export function inContext(words: string, error: unknown): unknown {
  if (!(error instanceof BlockError)) return error
  const { code, message, node, path, offset, errno } = error
  return new BlockError(code, `${words}: ${message}`, { node, path, offset, errno, cause: error })
}

/**
 * What work failed with when closing failed after it: `await using` then throws a `SuppressedError`,
 * which has the later failure in front. Anything else is returned as it is.
 */
export function firstFailure(error: unknown): unknown {
  let first = error
  // By name: where Node has no such class, the compiler's helper makes one.
  while (first instanceof Error && first.name === 'SuppressedError' && 'suppressed' in first) {
    first = first.suppressed
  }
  return first
}

/** The C library's text for an errno name; the names themselves where we know no text. */
export function strerror(errno: string): string {
  return errnoText[errno] ?? errno
}

/** The C library's texts of those errors that file and socket calls give. */
const errnoText: Readonly<Record<string, string>> = {
  EPERM: 'Operation not permitted',
  ENOENT: 'No such file or directory',
  EINTR: 'Interrupted system call',
  EIO: 'Input/output error',
  ENXIO: 'No such device or address',
  EBADF: 'Bad file descriptor',
  EAGAIN: 'Resource temporarily unavailable',
  ENOMEM: 'Cannot allocate memory',
  EACCES: 'Permission denied',
  EBUSY: 'Device or resource busy',
  EEXIST: 'File exists',
  ENODEV: 'No such device',
  ENOTDIR: 'Not a directory',
  EISDIR: 'Is a directory',
  EINVAL: 'Invalid argument',
  EMFILE: 'Too many open files',
  ENOTTY: 'Inappropriate ioctl for device',
  ETXTBSY: 'Text file busy',
  EFBIG: 'File too large',
  ENOSPC: 'No space left on device',
  ESPIPE: 'Illegal seek',
  EROFS: 'Read-only file system',
  EPIPE: 'Broken pipe',
  ERANGE: 'Numerical result out of range',
  ENAMETOOLONG: 'File name too long',
  ELOOP: 'Too many levels of symbolic links',
  EOVERFLOW: 'Value too large for defined data type',
  EPROTO: 'Protocol error',
  EADDRINUSE: 'Address already in use',
  EADDRNOTAVAIL: 'Cannot assign requested address',
  ECONNABORTED: 'Software caused connection abort',
  ECONNRESET: 'Connection reset by peer',
  ECONNREFUSED: 'Connection refused',
  ENOTSUP: 'Operation not supported',
  EOPNOTSUPP: 'Operation not supported',
  ETIMEDOUT: 'Connection timed out',
  ESHUTDOWN: 'Cannot send after transport endpoint shutdown',
  ECANCELED: 'Operation canceled',
  EDQUOT: 'Disk quota exceeded',
  ENOMEDIUM: 'No medium found',
  ENOKEY: 'Required key not available',
  EKEYEXPIRED: 'Key has expired',
  EKEYREVOKED: 'Key has been revoked',
  EKEYREJECTED: 'Key was rejected by service',
}
