/** What is done about a request of a job, or of a drive, that failed. */
import { BlockError, errnoOf } from '../errors.ts'

/** As the user chose it; `auto` is `enospc` for writes. */
export type ErrorPolicy = 'report' | 'ignore' | 'enospc' | 'stop' | 'auto'
export type ErrorAction = 'report' | 'ignore' | 'stop'

/** What `policy` says to `error`. */
export function decide(
  policy: ErrorPolicy,
  error: unknown,
  operation: 'read' | 'write',
): ErrorAction {
  switch (policy) {
    case 'report':
    case 'ignore':
    case 'stop':
      return policy
    case 'enospc':
      return isNoSpace(error) ? 'stop' : 'report'
    case 'auto':
      return operation === 'write' && isNoSpace(error) ? 'stop' : 'report'
  }
}

export function isNoSpace(error: unknown): boolean {
  if (error instanceof BlockError && error.code === 'NO_SPACE') return true
  const cause = error instanceof Error ? error.cause : undefined
  return errnoOf(error) === 'ENOSPC' || (cause !== undefined && isNoSpace(cause))
}
