/** How failures look to a QMP client: a class to branch on and a sentence for people. */
import { BlockError, type BlockErrorCode } from '../errors.ts'

/** QMP's classes. All but the first are kept for the few errors that clients tell apart. */
export type ErrorClass = 'GenericError' | 'CommandNotFound' | 'DeviceNotActive' | 'DeviceNotFound'

export interface ErrorReply {
  readonly class: ErrorClass
  readonly desc: string
}

/** An error whose class the command itself decides. */
export class QmpError extends BlockError {
  readonly class: ErrorClass

  constructor(errorClass: ErrorClass, desc: string) {
    super('INVALID_ARGUMENT', desc)
    this.class = errorClass
  }
}

/** Classes by code. QEMU has one class for nearly everything, and so have we. */
const classByCode: Readonly<Record<BlockErrorCode, ErrorClass>> = {
  INVALID_ARGUMENT: 'GenericError',
  NOT_RECOGNISED: 'GenericError',
  CORRUPT_IMAGE: 'GenericError',
  UNSUPPORTED: 'GenericError',
  OUT_OF_RANGE: 'GenericError',
  NO_SPACE: 'GenericError',
  READ_ONLY: 'GenericError',
  PERMISSION: 'GenericError',
  BUSY: 'GenericError',
  CLOSED: 'GenericError',
  PEER: 'GenericError',
  IO: 'GenericError',
}

/** What a client is told of an error. */
export function errorReply(error: unknown): ErrorReply {
  if (error instanceof QmpError) return { class: error.class, desc: error.message }
  if (error instanceof BlockError) {
    // What follows the first line is a hint for people at a terminal.
    return { class: classByCode[error.code], desc: error.message.split('\n')[0] }
  }
  const desc = error instanceof Error ? error.message : String(error)
  return { class: 'GenericError', desc }
}
