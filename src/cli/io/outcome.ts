/** How a command ends other than well. */
import { BlockError, errnoOf, strerror } from '../../errors.ts'
import { VerifyError } from '../../filter/blkverify.ts'

/** Ends one command; qemu-io prints most of its complaints on standard output. */
export class CommandError extends Error {
  readonly stream: 'stdout' | 'stderr'

  constructor(message: string, stream: 'stdout' | 'stderr' = 'stdout') {
    super(message)
    this.stream = stream
  }
}

/** Ends the whole run: what follows would work on a disk that is known to be wrong. */
export class FatalError extends CommandError {
  constructor(message: string) {
    super(message, 'stderr')
  }
}

/** The command has failed and has said so itself. */
export function alreadyPrinted(): CommandError {
  return new CommandError('')
}

/** The words of a command make no sense: its synopsis is printed. */
export class SynopsisRequest extends Error {}

/** `read failed: No space left on device`, as for a failed request. */
export function requestError(what: string, error: unknown): CommandError {
  if (error instanceof VerifyError) return new FatalError(error.message)
  return new CommandError(`${what} failed: ${reasonOf(error)}`)
}

/** The C library's sentence for an error of the block layer; its own where there is none. */
function reasonOf(error: unknown): string {
  if (!(error instanceof BlockError)) throw error
  const errno = errnoOf(error) ?? errnoByCode[error.code]
  return errno === undefined ? error.message : strerror(errno)
}

const errnoByCode: Readonly<Record<string, string>> = {
  INVALID_ARGUMENT: 'EINVAL',
  CORRUPT_IMAGE: 'EIO',
  UNSUPPORTED: 'ENOTSUP',
  OUT_OF_RANGE: 'EIO',
  NO_SPACE: 'ENOSPC',
  READ_ONLY: 'EPERM',
  PERMISSION: 'EPERM',
  BUSY: 'EBUSY',
}
