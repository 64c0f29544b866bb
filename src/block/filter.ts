/** Base of all filters: forwards everything to `next`, so that a filter is only its difference. */
import type { GivenSize, ImageFacts } from './abilities.ts'
import type {
  BlockLayer,
  Capabilities,
  Completion,
  Extent,
  Io,
  Limits,
  ResizeIo,
  WriteIo,
  ZeroIo,
} from './layer.ts'

export class Filter implements BlockLayer {
  protected readonly next: BlockLayer

  constructor(next: BlockLayer) {
    this.next = next
  }

  get size(): number {
    return this.next.size
  }

  get capabilities(): Capabilities {
    return this.next.capabilities
  }

  get limits(): Limits {
    return this.next.limits
  }

  get sizeIsGiven(): GivenSize | undefined {
    return this.next.sizeIsGiven
  }

  /** What is true of the data, whoever shows it; not the format's own facts. */
  get image(): ImageFacts | undefined {
    const below = this.next.image
    if (!below) return undefined
    const { filename, clusterSize } = below
    return { filename, clusterSize, allocatedSize: below.allocatedSize?.bind(below) }
  }

  read(offset: number, target: Uint8Array, io: Io): Completion {
    return this.next.read(offset, target, io)
  }

  write(offset: number, source: Uint8Array, io: WriteIo): Completion {
    return this.next.write(offset, source, io)
  }

  writeZeroes(offset: number, length: number, io: ZeroIo): Completion {
    return this.next.writeZeroes(offset, length, io)
  }

  discard(offset: number, length: number, io: Io): Completion {
    return this.next.discard(offset, length, io)
  }

  flush(io: Io): Completion {
    return this.next.flush(io)
  }

  truncate(size: number, io: ResizeIo): Completion {
    return this.next.truncate(size, io)
  }

  /** A filter's data lies at the same place of its child, so the child answers for it. */
  extentAt(offset: number, length: number, io: Io): Extent | Promise<Extent> {
    return this.next.extentAt(offset, length, io)
  }

  /** The child belongs to the graph, which closes it after its last parent. */
  async [Symbol.asyncDispose](): Promise<void> {}
}
