/**
 * Carries bytes of one disk to another: reads a piece, and stores what is data as data and what is
 * zeroes as zeroes, cluster by cluster. Who may be at work on which piece is the caller's business.
 */
import { isZero } from '../bytes/zero.ts'
import { type BlockLayer, type Io, plainZeroIo } from './layer.ts'

/** What is read, and what is written to: a layer, an edge, or a node. */
export type TransferSource = Pick<BlockLayer, 'size' | 'read'>
export type TransferTarget = Pick<BlockLayer, 'write' | 'writeZeroes' | 'compressed'>

export interface TransferOptions {
  readonly source: TransferSource
  readonly target: TransferTarget
  /** Bytes; zeroes are looked for in pieces of this length. */
  readonly clusterSize: number
  /** Longest piece. */
  readonly maxLength: number
  /** Store clusters compressed, by the target's `compressed` ability. */
  readonly compress?: boolean
  /** Whether zeroes may deallocate in the target; true unless given. */
  readonly unmap?: boolean
}

/** Buffers kept for the next pieces. */
const spareBuffers = 16

/** Which side of a copy failed: the error policies differ. */
export type CopySide = 'source' | 'target'

export class CopyError extends Error {
  override readonly name = 'CopyError'
  readonly side: CopySide
  readonly offset: number

  constructor(side: CopySide, offset: number, cause: unknown) {
    super(cause instanceof Error ? cause.message : String(cause), { cause })
    this.side = side
    this.offset = offset
  }
}

export class Transfer {
  readonly #options: TransferOptions
  readonly #spare: Buffer[] = []

  constructor(options: TransferOptions) {
    this.#options = options
  }

  /** Copies a piece of at most `maxLength`. Throws a `CopyError`. */
  async copy(offset: number, length: number, io: Io): Promise<void> {
    const buffer = this.#spare.pop() ?? Buffer.allocUnsafeSlow(this.#options.maxLength)
    try {
      const data = buffer.subarray(0, length)
      await attempt('source', offset, () => this.#options.source.read(offset, data, io))
      await this.#storeClusters(offset, data, io)
    } finally {
      if (this.#spare.length < spareBuffers) this.#spare.push(buffer)
    }
  }

  /** Makes a range of the target, of any length, read as zeroes. Throws a `CopyError`. */
  async zero(offset: number, length: number, io: Io): Promise<void> {
    const { target, unmap = true } = this.#options
    const zeroIo = { ...plainZeroIo, ...io, mayUnmap: unmap }
    await attempt('target', offset, () => target.writeZeroes(offset, length, zeroIo))
  }

  /** Stores neighbouring clusters of one kind, zeroes or data, with one request each. */
  async #storeClusters(offset: number, data: Buffer, io: Io): Promise<void> {
    const { length } = data
    for (let at = 0; at < length; ) {
      const zero = isZero(this.#clusterOf(data, at))
      let end = at + this.#options.clusterSize
      while (end < length && isZero(this.#clusterOf(data, end)) === zero) {
        end += this.#options.clusterSize
      }
      const part = data.subarray(at, Math.min(end, length))
      if (zero) await this.zero(offset + at, part.length, io)
      else await this.#store(offset + at, part, io)
      at = end
    }
  }

  #clusterOf(data: Uint8Array, at: number): Uint8Array {
    return data.subarray(at, at + this.#options.clusterSize)
  }

  async #store(offset: number, data: Uint8Array, io: Io): Promise<void> {
    const { target, compress } = this.#options
    const writeIo = { ...plainZeroIo, ...io }
    await attempt('target', offset, async () => {
      const { compressed } = target
      if (!compress || !compressed) return await target.write(offset, data, writeIo)
      for (let at = 0; at < data.length; at += compressed.unit) {
        const unit = data.subarray(at, at + compressed.unit)
        await compressed.write(offset + at, unit, writeIo)
      }
    })
  }
}

async function attempt(
  side: CopySide,
  offset: number,
  work: () => void | Promise<void>,
): Promise<void> {
  try {
    await work()
  } catch (error) {
    throw new CopyError(side, offset, error)
  }
}
