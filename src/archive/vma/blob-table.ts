/**
 * The blob table behind the header: strings and configuration files, addressed by their offset in
 * the table. Offset 0 means "none", so the first byte stays unused.
 */
import { alignUp } from '../../bytes/range.ts'
import { BlockError } from '../../errors.ts'
import { headerStep, maxBlobSize } from './structures.ts'

/** Bytes of the length in front of each blob, little-endian unlike everything else. */
const lengthSize = 2

export class BlobTable {
  #bytes = Buffer.alloc(headerStep)
  #used = 1

  /** Bytes used, including the unused first one. */
  get used(): number {
    return this.#used
  }

  /** The table padded with zeroes to a multiple of 512 bytes. */
  get padded(): Uint8Array {
    return this.#bytes.subarray(0, alignUp(this.#used, headerStep))
  }

  /** Copies a blob of at most 65,535 bytes into the table and returns its offset. */
  add(blob: Uint8Array): number {
    if (blob.length > maxBlobSize) {
      throw new BlockError(
        'INVALID_ARGUMENT',
        `${blob.length} bytes are more than the ${maxBlobSize} that a VMA archive can hold`,
      )
    }
    const offset = this.#used
    this.#grow(offset + lengthSize + blob.length)
    this.#bytes.writeUInt16LE(blob.length, offset)
    this.#bytes.set(blob, offset + lengthSize)
    this.#used = offset + lengthSize + blob.length
    return offset
  }

  /** Adds a string with the NUL that ends it. */
  addString(text: string): number {
    return this.add(Buffer.from(`${text}\0`))
  }

  #grow(size: number): void {
    if (size <= this.#bytes.length) return
    const grown = Buffer.alloc(alignUp(Math.max(size, 2 * this.#bytes.length), headerStep))
    this.#bytes.copy(grown, 0, 0, this.#used)
    this.#bytes = grown
  }
}

/** The blob at `offset` of the table; `tableOffset` is where the table lies in the archive. */
export function blobAt(table: Buffer, offset: number, tableOffset: number, what: string): Buffer {
  const start = offset + lengthSize
  const end = start <= table.length ? start + table.readUInt16LE(offset) : Infinity
  if (end > table.length) {
    throw new BlockError(
      'CORRUPT_IMAGE',
      `${what} lies outside the blob table: at byte ${offset} of ${table.length}`,
      { offset: tableOffset + offset },
    )
  }
  return table.subarray(start, end)
}

/** The string at `offset`, without its NUL. */
export function stringAt(table: Buffer, offset: number, tableOffset: number, what: string): string {
  const blob = blobAt(table, offset, tableOffset, what)
  const end = blob.indexOf(0)
  if (end <= 0) {
    throw new BlockError(
      'CORRUPT_IMAGE',
      end === 0 ? `${what} is empty` : `${what} has no end: its NUL is missing`,
      { offset: tableOffset + offset },
    )
  }
  return blob.toString('utf8', 0, end)
}
