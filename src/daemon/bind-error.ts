/** Why a server could not listen. */
import { existsSync } from 'node:fs'
import path from 'node:path'
import { BlockError, errnoOf, strerror } from '../errors.ts'

/** `where` is the path of a Unix socket. */
export function bindError(error: unknown, where: string): BlockError {
  const reason = strerror(bindErrno(error, where))
  return new BlockError('IO', `Failed to bind socket to ${where}: ${reason}`, { cause: error })
}

/** Node says EACCES for a folder that is not there. */
function bindErrno(error: unknown, where: string): string {
  const errno = errnoOf(error) ?? 'EIO'
  return errno === 'EACCES' && !existsSync(path.dirname(where)) ? 'ENOENT' : errno
}

/** Why no port could be listened on. */
export function portError(error: unknown): BlockError {
  const errno = errnoOf(error) ?? 'EIO'
  const what = errno === 'EADDRINUSE' ? 'Failed to find an available port' : 'Failed to bind socket'
  return new BlockError('IO', `${what}: ${strerror(errno)}`, { cause: error })
}
