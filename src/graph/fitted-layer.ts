/**
 * Makes requests of any alignment and length fit a layer's limits: splits what is too long, reads
 * the surroundings of what is unaligned, and does by other means what the layer cannot. The node
 * sees to it that nobody interferes with a read-modify-write.
 */
import type { BlockLayer, Io, WriteIo, ZeroIo } from '../block/layer.ts'
import { alignDown, alignUp, isAligned, MiB } from '../bytes/range.ts'
import { zeroes } from '../bytes/zero.ts'
import { BlockError } from '../errors.ts'
import { inPieces } from './pieces.ts'

export class FittedLayer {
  readonly #name: string
  readonly #layer: BlockLayer
  readonly #flush: (io: Io) => Promise<void>

  /** `flush` makes what was written stable, where the layer cannot do that with a write. */
  constructor(name: string, layer: BlockLayer, flush: (io: Io) => Promise<void>) {
    this.#name = name
    this.#layer = layer
    this.#flush = flush
  }

  get nativeFua(): boolean {
    return this.#layer.capabilities.fua === 'native'
  }

  /** Whether the layer can take a read or write as it is. */
  fits(offset: number, length: number): boolean {
    const { alignment, maxTransfer } = this.#layer.limits
    if (length > maxTransfer) return false
    return alignment === 1 || (offset % alignment === 0 && length % alignment === 0)
  }

  async read(offset: number, target: Uint8Array, io: Io): Promise<void> {
    const { alignment, maxTransfer } = this.#layer.limits
    if (!isAligned(offset, alignment) || !isAligned(target.length, alignment)) {
      return await this.#readBounced(offset, target, io)
    }
    await inPieces(target.length, maxTransfer, (at, length) =>
      this.#layer.read(offset + at, target.subarray(at, at + length), io),
    )
  }

  async write(offset: number, source: Uint8Array, io: WriteIo): Promise<void> {
    await this.#writeBytes(offset, source, this.#passedOn(io))
    await this.#completeFua(io)
  }

  /** The aligned middle by the layer's own means, the ragged ends as bytes. */
  async writeZeroes(offset: number, length: number, zeroIo: ZeroIo): Promise<void> {
    const io = this.#passedOn(zeroIo)
    const { alignment } = this.#layer.limits
    const end = offset + length
    const middle = Math.min(end, alignUp(offset, alignment))
    const middleEnd = Math.max(middle, alignDown(end, alignment))
    // All or nothing: whoever hears "not the fast way" goes on with the disk as it was.
    if (middle > offset || end > middleEnd) this.#refuseSlow(offset, length, io)
    await this.#zeroBytes(offset, middle - offset, io)
    if (middleEnd > middle) {
      if (this.#layer.capabilities.writeZeroes === 'none') {
        await this.#zeroBytes(middle, middleEnd - middle, io)
      } else {
        await this.#layer.writeZeroes(middle, middleEnd - middle, io)
      }
    }
    await this.#zeroBytes(middleEnd, end - middleEnd, io)
    await this.#completeFua(zeroIo)
  }

  /** Reads the aligned surroundings of a range, piece by piece, and copies the range out. */
  async #readBounced(offset: number, target: Uint8Array, io: Io): Promise<void> {
    const { alignment, maxTransfer } = this.#layer.limits
    const step = Math.max(alignment, Math.min(maxTransfer, MiB))
    for (let at = 0; at < target.length; ) {
      const start = alignDown(offset + at, alignment)
      const end = Math.min(alignUp(offset + target.length, alignment), start + step)
      const bounce = new Uint8Array(end - start)
      await this.#layer.read(start, bounce, io)
      const skip = offset + at - start
      const length = Math.min(target.length - at, bounce.length - skip)
      target.set(bounce.subarray(skip, skip + length), at)
      at += length
    }
  }

  async #writeBytes(offset: number, source: Uint8Array, io: WriteIo): Promise<void> {
    const { alignment } = this.#layer.limits
    if (isAligned(offset, alignment) && isAligned(source.length, alignment)) {
      return await this.#writeAligned(offset, source, io)
    }
    const start = alignDown(offset, alignment)
    const end = alignUp(offset + source.length, alignment)
    const whole = new Uint8Array(end - start)
    const { debugEvent } = this.#layer
    if (start < offset) {
      await debugEvent?.('pwritev_rmw_head')
      await this.#layer.read(start, whole.subarray(0, alignment), io)
      await debugEvent?.('pwritev_rmw_after_head')
    }
    const last = end - alignment
    const lastIsRead = last === start && start < offset
    if (end > offset + source.length && !lastIsRead) {
      await debugEvent?.('pwritev_rmw_tail')
      await this.#layer.read(last, whole.subarray(last - start), io)
      await debugEvent?.('pwritev_rmw_after_tail')
    }
    whole.set(source, offset - start)
    await this.#writeAligned(start, whole, io)
  }

  async #writeAligned(offset: number, source: Uint8Array, io: WriteIo): Promise<void> {
    await inPieces(source.length, this.#layer.limits.maxTransfer, (at, length) =>
      this.#layer.write(offset + at, source.subarray(at, at + length), io),
    )
  }

  #refuseSlow(offset: number, length: number, io: ZeroIo): void {
    if (!io.fastOnly) return
    const message = `${this.#name}: no fast way to zero ${offset}+${length}`
    throw new BlockError('UNSUPPORTED', message, { node: this.#name, offset, errno: 'ENOTSUP' })
  }

  async #zeroBytes(offset: number, length: number, io: ZeroIo): Promise<void> {
    if (length > 0) this.#refuseSlow(offset, length, io)
    for (let at = 0; at < length; at += zeroes.length) {
      const part = zeroes.subarray(0, Math.min(zeroes.length, length - at))
      await this.#writeBytes(offset + at, part, io)
    }
  }

  /** Without the flag where one flush at the end does what it asks for, once. */
  #passedOn<T extends WriteIo>(io: T): T {
    return io.fua && !this.nativeFua ? { ...io, fua: false } : io
  }

  async #completeFua(io: WriteIo): Promise<void> {
    if (io.fua && !this.nativeFua) await this.#flush(io)
  }
}
