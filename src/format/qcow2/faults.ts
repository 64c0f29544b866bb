/** Errors of one image: each names the node (or the file, where the node has no name of its own). */
import { BlockError, type BlockErrorCode } from '../../errors.ts'

export class Faults {
  readonly #node: string
  readonly #path: string | undefined

  constructor(node: string, path?: string) {
    this.#node = node
    this.#path = path
  }

  /** Bytes that contradict the format; `offset` is the byte of the file where they lie. */
  corrupt(message: string, offset?: number): BlockError {
    return this.#error('CORRUPT_IMAGE', message, offset, 'EIO')
  }

  /** An L2 entry that contradicts the format; `offset` is where it lies. */
  corruptEntry(index: number, what: string, offset: number): BlockError {
    return this.corrupt(`L2 entry ${index} ${what}`, offset)
  }

  /** Valid, but beyond what is done here. */
  unsupported(message: string, offset?: number): BlockError {
    return this.#error('UNSUPPORTED', message, offset, 'ENOTSUP')
  }

  /**
   * Why an image cannot be opened. Whoever opens it says which one that is (`Could not open 'a'`),
   * so the sentence does not.
   */
  refuse(code: BlockErrorCode, message: string, offset?: number): BlockError {
    const errno = refusalErrno[code] ?? 'EINVAL'
    return new BlockError(code, message, { node: this.#node, path: this.#path, offset, errno })
  }

  notRecognised(message: string): BlockError {
    return this.refuse('NOT_RECOGNISED', message, 0)
  }

  noSpace(message: string): BlockError {
    return this.#error('NO_SPACE', message, undefined, 'ENOSPC')
  }

  invalid(message: string): BlockError {
    return this.#error('INVALID_ARGUMENT', message, undefined, 'EINVAL')
  }

  /** The caller named something that is not there, or that is there already. */
  missing(message: string): BlockError {
    return this.#error('INVALID_ARGUMENT', message, undefined, 'ENOENT')
  }

  exists(message: string): BlockError {
    return this.#error('INVALID_ARGUMENT', message, undefined, 'EEXIST')
  }

  #error(code: BlockErrorCode, message: string, offset: number | undefined, errno: string) {
    const node = this.#node
    return new BlockError(code, `${this.#subject()}: ${message}`, {
      node,
      path: this.#path,
      offset,
      errno,
    })
  }

  /** Names that the graph made up begin with `#` and tell a person nothing. */
  #subject(): string {
    return this.#path !== undefined && this.#node.startsWith('#') ? this.#path : this.#node
  }
}

const refusalErrno: Partial<Record<BlockErrorCode, string>> = {
  UNSUPPORTED: 'ENOTSUP',
  READ_ONLY: 'EACCES',
}

/** An entry of a table, given in halves, as messages show it. */
export function hex64(high: number, low: number): string {
  return high === 0 ? low.toString(16) : high.toString(16) + low.toString(16).padStart(8, '0')
}

/** As `hex`, and `0` for nothing, as C prints it. */
export function hexOrZero(value: number): string {
  return value === 0 ? '0' : hex(value)
}

/** `0x5200`: how offsets into a file are written in messages. */
export function hex(value: number): string {
  return `0x${value.toString(16)}`
}
