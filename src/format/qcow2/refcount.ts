/** Entries of refcount blocks: unsigned numbers of 1 to 64 bits, sub-byte ones least significant first. */
import { viewOf } from '../../bytes/view.ts'

export class RefcountLayout {
  readonly bits: number
  /** Refcounts in one block. */
  readonly entries: number
  /** Largest refcount that can be stored (and is a safe integer). */
  readonly max: number
  readonly #perByte: number
  readonly #mask: number

  /** `order` 0 to 6: refcounts are 2^order bits wide. */
  constructor(order: number, clusterSize: number) {
    this.bits = 2 ** order
    this.entries = (clusterSize * 8) / this.bits
    this.max = Math.min(Number.MAX_SAFE_INTEGER, 2 ** this.bits - 1)
    this.#perByte = 8 / this.bits
    this.#mask = 2 ** this.bits - 1
  }

  /** A 64-bit refcount beyond 2^53 reads as a number that is no safe integer. */
  get(block: DataView, index: number): number {
    switch (this.bits) {
      case 16:
        return block.getUint16(index * 2)
      case 8:
        return block.getUint8(index)
      case 32:
        return block.getUint32(index * 4)
      case 64:
        return block.getUint32(index * 8) * 2 ** 32 + block.getUint32(index * 8 + 4)
      default:
        return (block.getUint8(this.#byteOf(index)) >>> this.#shiftOf(index)) & this.#mask
    }
  }

  set(block: DataView, index: number, value: number): void {
    switch (this.bits) {
      case 16:
        block.setUint16(index * 2, value)
        break
      case 8:
        block.setUint8(index, value)
        break
      case 32:
        block.setUint32(index * 4, value)
        break
      case 64:
        block.setUint32(index * 8, Math.floor(value / 2 ** 32))
        block.setUint32(index * 8 + 4, value % 2 ** 32)
        break
      default: {
        const at = this.#byteOf(index)
        const shift = this.#shiftOf(index)
        block.setUint8(at, (block.getUint8(at) & ~(this.#mask << shift)) | (value << shift))
      }
    }
  }

  /** Part of a block, all of whose entries are one. */
  ones(length: number): Uint8Array {
    const entry = new Uint8Array(Math.max(1, this.bits / 8))
    for (let index = 0; index < Math.max(1, this.#perByte); index++) {
      this.set(viewOf(entry), index, 1)
    }
    return Buffer.alloc(length, entry)
  }

  /** Byte of the block in which an entry begins. */
  byteOf(index: number): number {
    return Math.floor((index * this.bits) / 8)
  }

  /** First entry from `from` on, below `to`, that is zero; `to` when there is none. */
  findFree(block: DataView, from: number, to: number): number {
    let index = from
    while (index < to && this.get(block, index) !== 0) index++
    return index
  }

  /** First entry from `from` on, below `to`, that is not zero; `to` when there is none. */
  findUsed(block: DataView, from: number, to: number): number {
    let index = from
    while (index < to && this.get(block, index) === 0) index++
    return index
  }

  /** A block in which the entries from `from` on, `count` of them, are one and all others zero. */
  blockOf(clusterSize: number, from: number, count: number): Uint8Array {
    const block = new Uint8Array(clusterSize)
    const view = viewOf(block)
    for (let index = from; index < from + count; index++) this.set(view, index, 1)
    return block
  }

  #byteOf(index: number): number {
    return Math.floor(index / this.#perByte)
  }

  #shiftOf(index: number): number {
    return (index % this.#perByte) * this.bits
  }
}
