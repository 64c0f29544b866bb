/** Storage of which some requests, counted over several disks, fail. */
import { Filter } from '../../src/block/filter.ts'
import type { Io, WriteIo, ZeroIo } from '../../src/block/layer.ts'
import { BlockError } from '../../src/errors.ts'

export class Faults {
  /** Requests so far, since `arm`. */
  count = 0
  /** Whether the fault has happened. */
  struck = false
  #failAt = Number.POSITIVE_INFINITY
  #times = 1
  #error: () => BlockError = () => new BlockError('IO', 'injected', { errno: 'EIO' })

  /** Lets request number `failAt` from now on fail, and those after it, `times` of them. */
  arm(failAt: number, code: 'IO' | 'NO_SPACE' = 'IO', times = 1): void {
    this.count = 0
    this.struck = false
    this.#failAt = failAt
    this.#times = times
    const errno = code === 'IO' ? 'EIO' : 'ENOSPC'
    this.#error = () => new BlockError(code, 'injected', { errno })
  }

  disarm(): void {
    this.#failAt = Number.POSITIVE_INFINITY
  }

  pass(): void {
    const request = this.count++
    if (request < this.#failAt || request >= this.#failAt + this.#times) return
    this.struck = true
    throw this.#error()
  }
}

export class FaultyLayer extends Filter {
  readonly #faults: Faults

  constructor(next: ConstructorParameters<typeof Filter>[0], faults: Faults) {
    super(next)
    this.#faults = faults
  }

  override async read(offset: number, target: Uint8Array, io: Io): Promise<void> {
    this.#faults.pass()
    await super.read(offset, target, io)
  }

  override async write(offset: number, source: Uint8Array, io: WriteIo): Promise<void> {
    this.#faults.pass()
    await super.write(offset, source, io)
  }

  override async writeZeroes(offset: number, length: number, io: ZeroIo): Promise<void> {
    this.#faults.pass()
    await super.writeZeroes(offset, length, io)
  }

  override async discard(offset: number, length: number, io: Io): Promise<void> {
    this.#faults.pass()
    await super.discard(offset, length, io)
  }

  override async flush(io: Io): Promise<void> {
    this.#faults.pass()
    await super.flush(io)
  }

  override async truncate(size: number, io: Io): Promise<void> {
    this.#faults.pass()
    await super.truncate(size, io)
  }
}
