/**
 * Driver `memory`: a disk in this process's memory, of which only written pages take room, so it
 * may be of any size. It answers everything at once, and is what most tests run on.
 */

import type { ImageFacts } from '../block/abilities.ts'
import type { BlockDriver } from '../block/driver.ts'
import type {
  BlockLayer,
  Capabilities,
  Extent,
  Io,
  Limits,
  WriteIo,
  ZeroIo,
} from '../block/layer.ts'
import { missing, OptionReader } from '../block/options.ts'
import { maxDiskSize } from '../bytes/range.ts'
import { BlockError } from '../errors.ts'
import { pageSize, SparseBytes } from './sparse-bytes.ts'

export interface MemoryOptions {
  /** Bytes. */
  readonly size: number
  readonly readOnly?: boolean
  /** Alignment that requests must have; 1 when left out. */
  readonly alignment?: number
}

/** A write or zeroing behind the end makes the disk longer, as it does a file. */
export class MemoryLayer implements BlockLayer {
  readonly limits: Limits
  readonly image: ImageFacts
  readonly #bytes: SparseBytes
  #readOnly: boolean
  #size: number
  #closed = false

  /** `content` is taken over, not copied. */
  constructor(options: MemoryOptions, content: SparseBytes = new SparseBytes()) {
    this.#size = options.size
    this.#readOnly = options.readOnly ?? false
    this.#bytes = content
    this.limits = memoryLimits(options.alignment ?? 1)
    this.image = { allocatedSize: async () => this.#bytes.allocated }
  }

  /** A disk that holds a copy of `bytes`. */
  static of(bytes: Uint8Array): MemoryLayer {
    const content = new SparseBytes()
    content.write(0, bytes)
    return new MemoryLayer({ size: bytes.length }, content)
  }

  get size(): number {
    return this.#size
  }

  get capabilities(): Capabilities {
    return this.#readOnly ? capabilities.readOnly : capabilities.writable
  }

  read(offset: number, target: Uint8Array, _io: Io): void {
    this.#checkOpen()
    this.#bytes.read(offset, target)
  }

  write(offset: number, source: Uint8Array, _io: WriteIo): void {
    this.#checkWritable()
    this.#bytes.write(offset, source)
    this.#size = Math.max(this.#size, offset + source.length)
  }

  writeZeroes(offset: number, length: number, _io: ZeroIo): void {
    this.#checkWritable()
    this.#bytes.clear(offset, length)
    this.#size = Math.max(this.#size, offset + length)
  }

  discard(offset: number, length: number, _io: Io): void {
    this.#checkWritable()
    this.#bytes.clear(offset, length)
  }

  flush(_io: Io): void {
    this.#checkOpen()
  }

  truncate(size: number, _io: Io): void {
    this.#checkWritable()
    if (size < this.#size) this.#bytes.clear(size, this.#size - size)
    this.#size = size
  }

  extentAt(offset: number, length: number, _io: Io): Extent {
    this.#checkOpen()
    const run = this.#bytes.runAt(offset, length)
    return run.present
      ? { kind: 'data', offset, length: run.length }
      : { kind: 'zero', offset, length: run.length, allocated: false }
  }

  async setReadOnly(readOnly: boolean): Promise<void> {
    this.#readOnly = readOnly
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closed = true
  }

  #checkOpen(): void {
    if (this.#closed) throw new BlockError('CLOSED', 'The memory disk is closed')
  }

  #checkWritable(): void {
    this.#checkOpen()
    if (this.#readOnly) throw new BlockError('READ_ONLY', 'The memory disk is read-only')
  }
}

export function memoryCapabilities(write: boolean): Capabilities {
  return {
    write,
    resize: write,
    backing: false,
    fua: 'native',
    writeZeroes: 'native',
    discard: 'native',
    extents: 'native',
    zeroInit: true,
  }
}

const capabilities = { readOnly: memoryCapabilities(false), writable: memoryCapabilities(true) }

export function memoryLimits(alignment: number): Limits {
  return {
    alignment,
    memoryAlignment: 1,
    zeroAlignment: alignment,
    discardAlignment: alignment,
    preferredLength: Math.max(pageSize, alignment),
    maxTransfer: 1024 * 1024 * 1024,
  }
}

/** A size in bytes that is needed and fits a disk. */
export function requiredSize(reader: OptionReader, name = 'size'): number {
  const size = reader.bytes(name)
  if (size === undefined) throw missing(name)
  if (size > maxDiskSize) {
    throw new BlockError('INVALID_ARGUMENT', `A disk of ${size} bytes is beyond the 8 PiB limit`)
  }
  return size
}

export const memory: BlockDriver<{ size: number }> = {
  name: 'memory',
  kind: 'protocol',
  naming: { strong: ['size'], plain: 'none' },
  changeable: [],
  parse(options) {
    const reader = new OptionReader(options)
    reader.take('driver')
    const size = requiredSize(reader)
    reader.finish()
    return { size }
  },
  open: async ({ size }, context) => new MemoryLayer({ size, readOnly: context.flags.readOnly }),
}
