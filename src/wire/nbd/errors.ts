/** Translation between `BlockError` and the error values of the protocol, both ways. */
import { BlockError, type BlockErrorCode, errnoOf, strerror } from '../../errors.ts'
import {
  NBD_EINVAL,
  NBD_EIO,
  NBD_ENOMEM,
  NBD_ENOSPC,
  NBD_ENOTSUP,
  NBD_EOVERFLOW,
  NBD_EPERM,
  NBD_ESHUTDOWN,
} from './constants.ts'

const valueByCode: Readonly<Record<BlockErrorCode, number>> = {
  INVALID_ARGUMENT: NBD_EINVAL,
  NOT_RECOGNISED: NBD_EIO,
  CORRUPT_IMAGE: NBD_EIO,
  // NBD_ENOTSUP is for NBD_CMD_FLAG_FAST_ZERO alone: see `fastZeroErrorValue`.
  UNSUPPORTED: NBD_EINVAL,
  OUT_OF_RANGE: NBD_EINVAL,
  NO_SPACE: NBD_ENOSPC,
  READ_ONLY: NBD_EPERM,
  PERMISSION: NBD_EPERM,
  BUSY: NBD_EIO,
  CLOSED: NBD_ESHUTDOWN,
  PEER: NBD_EIO,
  IO: NBD_EIO,
}

const valueByErrno: Readonly<Record<string, number>> = {
  EPERM: NBD_EPERM,
  EROFS: NBD_EPERM,
  ENOMEM: NBD_ENOMEM,
  EINVAL: NBD_EINVAL,
  ENOSPC: NBD_ENOSPC,
  EDQUOT: NBD_ENOSPC,
  EFBIG: NBD_ENOSPC,
  ESHUTDOWN: NBD_ESHUTDOWN,
}

/** The error value that a server answers with. Never NBD_SUCCESS. */
export function errorValueOf(error: unknown): number {
  if (error instanceof BlockError && error.code !== 'IO') return valueByCode[error.code]
  const errno = errnoOf(error)
  if (errno !== undefined) return valueByErrno[errno] ?? NBD_EIO
  return isAbort(error) ? NBD_ESHUTDOWN : NBD_EIO
}

/** The same for NBD_CMD_WRITE_ZEROES with NBD_CMD_FLAG_FAST_ZERO. */
export function fastZeroErrorValue(error: unknown): number {
  const refused = error instanceof BlockError && error.code === 'UNSUPPORTED'
  return refused ? NBD_ENOTSUP : errorValueOf(error)
}

const meaning: ReadonlyMap<number, readonly [BlockErrorCode, errno: string]> = new Map([
  [NBD_EPERM, ['PERMISSION', 'EPERM']],
  [NBD_EIO, ['IO', 'EIO']],
  [NBD_ENOMEM, ['IO', 'ENOMEM']],
  [NBD_EINVAL, ['IO', 'EINVAL']],
  [NBD_ENOSPC, ['NO_SPACE', 'ENOSPC']],
  [NBD_EOVERFLOW, ['IO', 'EOVERFLOW']],
  [NBD_ENOTSUP, ['UNSUPPORTED', 'ENOTSUP']],
  [NBD_ESHUTDOWN, ['CLOSED', 'ESHUTDOWN']],
])

/** The C library's text for an error value; unknown ones count as NBD_EINVAL, as specified. */
export function errorText(value: number): string {
  return strerror((meaning.get(value) ?? meaning.get(NBD_EINVAL)!)[1])
}

/** The error for a server's answer `value`; `what` says what was asked of it. */
export function errorOfValue(value: number, what: string, offset?: number): BlockError {
  const [code, errno] = meaning.get(value) ?? meaning.get(NBD_EINVAL)!
  return new BlockError(code, `${what}: ${strerror(errno)}`, { offset, errno })
}

function isAbort(error: unknown): boolean {
  return error instanceof Error && error.name === 'AbortError'
}
