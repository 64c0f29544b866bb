/**
 * A disk for tests of what moves data: it tells what was asked of it, and holds or fails requests
 * when told to.
 */
import type {
  BlockLayer,
  Capabilities,
  Completion,
  Extent,
  Io,
  Limits,
  WriteIo,
  ZeroIo,
} from '../../src/block/layer.ts'
import { isZero } from '../../src/bytes/zero.ts'

export interface Call {
  readonly verb: 'read' | 'write' | 'writeZeroes' | 'discard' | 'flush'
  readonly offset: number
  readonly length: number
  readonly io: Io & Partial<ZeroIo>
}

/** Extents are granular to this many bytes. */
export const extentGrain = 4096

export class WatchedLayer implements BlockLayer {
  readonly bytes: Uint8Array
  readonly calls: Call[] = []
  capabilities: Capabilities = {
    write: true,
    resize: false,
    backing: false,
    fua: 'native',
    writeZeroes: 'native',
    discard: 'native',
    extents: 'native',
    zeroInit: true,
  }
  limits: Limits = {
    alignment: 1,
    memoryAlignment: 1,
    zeroAlignment: 1,
    discardAlignment: 1,
    preferredLength: 4096,
    maxTransfer: 2 ** 24,
  }
  /** Thrown, or rejected with when requests are held, instead of doing what was asked. */
  failure: unknown
  /** Answers with promises even when nothing is held. */
  slow = false
  #held: (() => void)[] | undefined
  #underWay = 0

  constructor(bytes: Uint8Array) {
    this.bytes = bytes
  }

  get size(): number {
    return this.bytes.length
  }

  /** Requests that have not settled. */
  get underWay(): number {
    return this.#underWay
  }

  /** From now on requests wait for `letGo`. */
  hold(): void {
    this.#held ??= []
  }

  letGo(): void {
    const held = this.#held ?? []
    this.#held = undefined
    for (const go of held) go()
  }

  read(offset: number, target: Uint8Array, io: Io): Completion {
    return this.#do({ verb: 'read', offset, length: target.length, io }, () =>
      target.set(this.bytes.subarray(offset, offset + target.length)),
    )
  }

  write(offset: number, source: Uint8Array, io: WriteIo): Completion {
    return this.#do({ verb: 'write', offset, length: source.length, io }, () =>
      this.bytes.set(source, offset),
    )
  }

  writeZeroes(offset: number, length: number, io: ZeroIo): Completion {
    return this.#do({ verb: 'writeZeroes', offset, length, io }, () =>
      this.bytes.fill(0, offset, offset + length),
    )
  }

  discard(offset: number, length: number, io: Io): Completion {
    return this.#do({ verb: 'discard', offset, length, io }, () =>
      this.bytes.fill(0, offset, offset + length),
    )
  }

  flush(io: Io): Completion {
    return this.#do({ verb: 'flush', offset: 0, length: 0, io }, () => {})
  }

  truncate(): never {
    throw new Error('not resizable')
  }

  extentAt(offset: number, length: number): Extent {
    const zero = this.#zeroGrain(offset)
    let end = offset
    while (end < offset + length && this.#zeroGrain(end) === zero) {
      end += extentGrain - (end % extentGrain)
    }
    const run = { offset, length: Math.min(end - offset, length) }
    return zero ? { kind: 'zero', allocated: false, ...run } : { kind: 'data', ...run }
  }

  async [Symbol.asyncDispose](): Promise<void> {}

  #zeroGrain(offset: number): boolean {
    const start = offset - (offset % extentGrain)
    return isZero(this.bytes.subarray(start, start + extentGrain))
  }

  #do(call: Call, work: () => void): Completion {
    this.calls.push(call)
    const act = () => {
      if (this.failure !== undefined) throw this.failure
      work()
    }
    if (!this.#held && !this.slow) return act()
    return this.#later(call, act)
  }

  async #later(call: Call, act: () => void): Promise<void> {
    this.#underWay++
    try {
      await new Promise<void>((resolve, reject) => {
        if (!this.#held) setImmediate(resolve)
        this.#held?.push(resolve)
        call.io.signal.addEventListener('abort', () => reject(call.io.signal.reason), {
          once: true,
        })
      })
      act()
    } finally {
      this.#underWay--
    }
  }
}
