/**
 * Errors that are announced before they happen. A test says which request fails and how; the
 * description goes into its messages, and `hits` tells whether the fault was met at all.
 *
 * ```ts
 * const fault = disk.faults.inject({ on: 'write', nth: 3, code: 'NO_SPACE' })
 * await expect(work(disk)).rejects.toMatchObject({ code: 'NO_SPACE' })
 * expect(fault.hits, `${fault}`).toBe(1)
 * ```
 */
import type { ByteRange } from '../../bytes/range.ts'
import { BlockError, type BlockErrorCode } from '../../errors.ts'

export type FaultyRequest = 'read' | 'write' | 'writeZeroes' | 'discard' | 'flush' | 'truncate'

export interface FaultOptions {
  readonly on: FaultyRequest
  /** Which matching request fails first, counted from 1 and from now; default 1. */
  readonly nth?: number
  /** How many fail, one after the other; default 1. */
  readonly times?: number
  /** Only requests that touch this range count. */
  readonly range?: ByteRange
  /** Default `IO`. */
  readonly code?: BlockErrorCode
  /** Default as fits the code: `EIO`, `ENOSPC`. */
  readonly errno?: string
  /** Bytes of a failing write that are stored all the same; default 0. */
  readonly arrives?: number
}

export interface Fault {
  /** Requests that it has made fail. */
  readonly hits: number
  /** It happens no more. */
  remove(): void
  /** `the 3rd write fails with NO_SPACE`. */
  toString(): string
}

export interface FaultHit {
  readonly reason: BlockError
  /** Bytes of the write that are stored all the same. */
  readonly arrives: number
}

export class Faults {
  readonly #faults = new Set<PlannedFault>()

  inject(options: FaultOptions): Fault {
    const fault: PlannedFault = new PlannedFault(options, () => this.#faults.delete(fault))
    this.#faults.add(fault)
    return fault
  }

  /** No more faults. */
  clear(): void {
    this.#faults.clear()
  }

  /** Counts a request; what it fails with, if it does. */
  find(request: FaultyRequest, offset: number, length: number): FaultHit | undefined {
    let hit: FaultHit | undefined
    for (const fault of this.#faults) hit = fault.meet(request, offset, length) ?? hit
    return hit
  }

  /** Counts a request; throws if it is to fail. */
  meet(request: FaultyRequest, offset: number, length: number): void {
    const hit = this.find(request, offset, length)
    if (hit) throw hit.reason
  }
}

class PlannedFault implements Fault {
  hits = 0
  readonly #options: FaultOptions
  readonly #remove: () => void
  #seen = 0

  constructor(options: FaultOptions, remove: () => void) {
    this.#options = options
    this.#remove = remove
  }

  remove(): void {
    this.#remove()
  }

  meet(request: FaultyRequest, offset: number, length: number): FaultHit | undefined {
    const { on, nth = 1, times = 1, arrives = 0 } = this.#options
    if (request !== on || !this.#touches(offset, length)) return undefined
    this.#seen++
    if (this.#seen < nth || this.#seen >= nth + times) return undefined
    this.hits++
    return { reason: this.#error(offset), arrives: Math.min(arrives, length) }
  }

  toString(): string {
    const { on, nth = 1, times = 1, range, code = 'IO' } = this.#options
    const where = range ? ` in ${range.length} bytes at ${range.offset}` : ''
    const which = times === 1 ? `the ${ordinal(nth)} ${on}` : `every ${on} from the ${ordinal(nth)}`
    const until = times === 1 || times === Infinity ? '' : ` to the ${ordinal(nth + times - 1)}`
    return `${which}${until}${where} fails with ${code}`
  }

  #touches(offset: number, length: number): boolean {
    const { range } = this.#options
    return !range || (offset < range.offset + range.length && range.offset < offset + length)
  }

  #error(offset: number): BlockError {
    const { code = 'IO', errno = code === 'NO_SPACE' ? 'ENOSPC' : 'EIO' } = this.#options
    return new BlockError(code, `injected: ${this}`, { offset, errno })
  }
}

function ordinal(number: number): string {
  const tens = number % 100
  const ending = tens > 10 && tens < 14 ? 'th' : (['th', 'st', 'nd', 'rd'][number % 10] ?? 'th')
  return `${number}${ending}`
}
