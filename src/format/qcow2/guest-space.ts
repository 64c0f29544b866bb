/**
 * Where the guest's data lies, and who gives out the space for it: the image file, in clusters that
 * are counted, or a data file, where each cluster has the offset that it has on the disk.
 */
import { type BlockLayer, type Completion, type Io, plainIo } from '../../block/layer.ts'
import type { Allocator } from './allocator.ts'
import type { FreeReason } from './frees.ts'
import type { ImageFile } from './image-file.ts'
import { type HostOffset, type HostRun, hostOffset } from './offsets.ts'

export interface GuestSpace {
  /** What plain data is read from and written to, at its host offset. */
  readonly layer: BlockLayer
  /** It deciphers what it reads. */
  readonly enciphered: boolean
  /** The same for clusters that lie at `host` and belong to the disk at `guest`. */
  layerAt(host: number, guest: number): BlockLayer
  /** Bytes that can be read there. */
  readonly size: number
  /** Space for up to `count` consecutive clusters of the disk, of which the first is at `guest`. */
  take(count: number, guest: number): HostRun | Promise<HostRun>
  /** Space that was taken and that nothing has referred to. */
  giveBack(run: HostRun): Completion
  /** Clusters that the tables in memory no longer refer to. */
  free(offset: HostOffset, count: number, reason: FreeReason): void
  /** Whether space that was just taken reads as zeroes already. Notes that it is used. */
  claim(offset: number, length: number): boolean
  /** Brings data to stable storage that flushing the image file does not. */
  flush(io: Io): Completion
}

export class ImageSpace implements GuestSpace {
  readonly enciphered = false
  readonly #file: ImageFile
  readonly #allocator: Allocator

  constructor(file: ImageFile, allocator: Allocator) {
    this.#file = file
    this.#allocator = allocator
  }

  get layer(): BlockLayer {
    return this.#file.layer
  }

  layerAt(): BlockLayer {
    return this.#file.layer
  }

  get size(): number {
    return this.#file.size
  }

  take(count: number): HostRun | Promise<HostRun> {
    return this.#allocator.take(count)
  }

  /**
   * What was written there before the request failed may be what has filled the disk. The space goes
   * back while nobody else can have the clusters.
   */
  async giveBack(run: HostRun): Promise<void> {
    const { layer, clusterSize, size } = this.#file
    const length = Math.min(run.count * clusterSize, size - run.offset)
    const given = length > 0 ? layer.discard(run.offset, length, plainIo) : undefined
    await Promise.resolve(given).catch(() => {})
    await this.#allocator.giveBack(run)
  }

  free(offset: HostOffset, count: number, reason: FreeReason): void {
    this.#file.leftOut.drop(offset, count * this.#file.clusterSize)
    this.#allocator.free(offset, count, reason)
  }

  claim(offset: number, length: number): boolean {
    return this.#file.claim(offset, length)
  }

  flush(): Completion {}
}

/**
 * A data file. Nothing is counted there, and nothing is taken or freed: what a cluster of the disk
 * may use is its own.
 */
export class DataFileSpace implements GuestSpace {
  readonly layer: BlockLayer
  readonly enciphered = false

  constructor(layer: BlockLayer) {
    this.layer = layer
  }

  layerAt(): BlockLayer {
    return this.layer
  }

  get size(): number {
    return this.layer.size
  }

  take(count: number, guest: number): HostRun {
    return { offset: hostOffset(guest), count }
  }

  giveBack(): void {}

  free(): void {}

  /** The file may have been made by anybody, and holes may not have been punched. */
  claim(): boolean {
    return false
  }

  flush(io: Io): Completion {
    return this.layer.flush(io)
  }
}
