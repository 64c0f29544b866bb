/**
 * Reading extents. In order, each read brings an extent's data and the header behind it, while
 * the caller works on the extent before. At random, headers alone are read to find out what lies
 * where.
 */
import { crc32 } from 'node:zlib'
import { alignUp, KiB } from '../../bytes/range.ts'
import { BlockError } from '../../errors.ts'
import { corrupt } from './archive-check.ts'
import { type DecodedExtent, decodeExtent } from './extent.ts'
import type { StoredHeader } from './header.ts'
import type { ArchiveSource, RandomAccess } from './io/source.ts'
import { extentHeader, maxExtentSize } from './structures.ts'

export interface LoadedExtent extends DecodedExtent {
  /** Byte offset of the extent in the archive. */
  readonly offset: number
  /** The 512 bytes of its header. */
  readonly raw: Buffer
  /** The stored blocks. Valid until the next extent is asked for. */
  readonly data: Buffer
}

/** Where an extent lies and what it holds, without its data. */
export interface ScannedExtent extends DecodedExtent {
  readonly offset: number
  readonly raw: Buffer
}

export class ExtentStream {
  readonly #source: ArchiveSource
  readonly #header: StoredHeader
  /** The header of the next extent, as far as the archive reaches. */
  #next: Buffer | undefined
  #offset: number

  /** `source` stands behind the archive's header. */
  constructor(source: ArchiveSource, header: StoredHeader) {
    this.#source = source
    this.#header = header
    this.#offset = header.size
  }

  /** Offset of the next extent; once there is none, the length of the archive. */
  get offset(): number {
    return this.#offset
  }

  /** Reads and checks the next extent, whose data will lie in `memory`. */
  async load(memory: ExtentMemory): Promise<LoadedExtent | undefined> {
    const raw = this.#next ?? (await this.#firstHeader())
    if (raw.length === 0) return undefined
    const offset = this.#offset
    const extent = decodeWhole(raw, this.#header, offset)
    const target = memory.take(extent.dataSize + extentHeader.size)
    const read = await this.#source.read(target)
    const data = target.subarray(0, extent.dataSize)
    if (read < data.length) throw truncated(offset)
    checkData(extent, data, offset)
    this.#next = Buffer.from(target.subarray(data.length, read))
    this.#offset += extentHeader.size + data.length
    return { ...extent, offset, raw, data }
  }

  async #firstHeader(): Promise<Buffer> {
    const raw = Buffer.alloc(extentHeader.size)
    return raw.subarray(0, await this.#source.read(raw))
  }
}

/** Memory for one extent after the other, as large as the largest of them. */
export class ExtentMemory {
  #bytes: Buffer = Buffer.alloc(0)

  /** `size` bytes, at most those of an extent; what was taken before is overwritten. */
  take(size: number): Buffer {
    if (this.#bytes.length < size) {
      this.#bytes = Buffer.allocUnsafeSlow(Math.min(maxExtentSize, alignUp(size, growStep)))
    }
    return this.#bytes.subarray(0, size)
  }
}

const growStep = 256 * KiB

function decodeWhole(raw: Buffer, header: StoredHeader, offset: number): DecodedExtent {
  if (raw.length < extentHeader.size) throw truncated(offset)
  return decodeExtent(raw, header.uuid, offset)
}

/** Compares data with its checksum, where there is one. */
export function checkData(extent: DecodedExtent, data: Uint8Array, offset: number): void {
  if (extent.checksum === undefined || crc32(data) === extent.checksum) return
  throw corrupt(offset, 'is damaged: the checksum of its data does not match')
}

function truncated(offset: number): BlockError {
  return new BlockError(
    'CORRUPT_IMAGE',
    `the archive is truncated: it ends inside the extent at byte ${offset}`,
    { offset },
  )
}

/** How far to read when the next header is likely to follow soon, in extents of zeroes. */
const scanWindow = 32 * KiB

/**
 * The headers of the extents between `offset` and `end`. Reads them one by one where data lies
 * between them, and many at a time where none does.
 */
export async function* scanExtents(
  file: RandomAccess,
  header: StoredHeader,
  offset: number,
  end: number,
): AsyncGenerator<ScannedExtent> {
  let window = Buffer.alloc(0)
  let windowOffset = offset
  let dense = true
  for (let at = offset; at < end; ) {
    if (at + extentHeader.size > windowOffset + window.length) {
      window = Buffer.alloc(dense ? extentHeader.size : Math.min(scanWindow, end - at))
      window = window.subarray(0, await file.readAt(at, window))
      windowOffset = at
    }
    const raw = window.subarray(at - windowOffset, at - windowOffset + extentHeader.size)
    const extent = decodeWhole(raw, header, at)
    if (at + extentHeader.size + extent.dataSize > end) throw truncated(at)
    yield { ...extent, offset: at, raw }
    at += extentHeader.size + extent.dataSize
    dense = extent.dataSize > scanWindow
  }
}
