/**
 * One device of an archive that is being written, as the target of a copy: a disk that takes every
 * cluster once, in any order, and gives nothing back.
 */
import type { ImageFacts } from '../../block/abilities.ts'
import type { BlockLayer, Capabilities, Completion, Extent, Io, Limits } from '../../block/layer.ts'
import { MiB } from '../../bytes/range.ts'
import { BlockError } from '../../errors.ts'
import { clusterSize } from './structures.ts'
import type { VmaWriter } from './writer.ts'

export class VmaDeviceTarget implements BlockLayer {
  readonly size: number
  readonly image: ImageFacts = { clusterSize }
  readonly capabilities: Capabilities = {
    write: true,
    resize: false,
    backing: false,
    fua: 'none',
    writeZeroes: 'native',
    discard: 'none',
    extents: 'none',
    zeroInit: false,
  }
  readonly limits: Limits = {
    alignment: 1,
    memoryAlignment: 1,
    zeroAlignment: clusterSize,
    discardAlignment: clusterSize,
    preferredLength: clusterSize,
    maxTransfer: 64 * MiB,
  }
  readonly #writer: VmaWriter
  readonly #deviceId: number

  /** `writer` stays the caller's; `deviceId` is what `registerStream` returned. */
  constructor(writer: VmaWriter, deviceId: number, size: number) {
    this.#writer = writer
    this.#deviceId = deviceId
    this.size = size
  }

  read(): Completion {
    throw new BlockError('UNSUPPORTED', 'an archive that is being written cannot be read', {
      errno: 'ENOTSUP',
    })
  }

  /** Whole clusters, apart from the disk's last; waits while the archive's ring is full. */
  async write(offset: number, source: Uint8Array, { background }: Io): Promise<void> {
    for (let at = 0; at < source.length; at += clusterSize) {
      const data = source.subarray(at, at + clusterSize)
      const cluster = (offset + at) / clusterSize
      const stored = this.#writer.write(this.#deviceId, cluster, data, background)
      if (stored instanceof Promise) await stored
    }
  }

  async writeZeroes(offset: number, length: number, { background }: Io): Promise<void> {
    for (let at = 0; at < length; at += clusterSize) {
      const cluster = (offset + at) / clusterSize
      const stored = this.#writer.write(this.#deviceId, cluster, undefined, background)
      if (stored instanceof Promise) await stored
    }
  }

  discard(): Completion {}

  /** The writer makes the archive durable when it is closed. */
  flush(): Completion {}

  truncate(): Completion {
    throw new BlockError('UNSUPPORTED', 'a device of an archive cannot be resized', {
      errno: 'ENOTSUP',
    })
  }

  extentAt(offset: number, length: number): Extent {
    return { kind: 'data', offset, length }
  }

  async [Symbol.asyncDispose](): Promise<void> {}
}
