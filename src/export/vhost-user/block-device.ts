/** A disk as a virtio block device: what it offers, what is told of it, and what becomes of requests. */
import { type Completion, plainIo, plainWriteIo, type WriteIo } from '../../block/layer.ts'
import { errnoOf } from '../../errors.ts'
import type { Edge } from '../../graph/edge.ts'
import { protocolFeature, vhostFeature } from '../../wire/vhost-user/messages.ts'
import {
  blockConfig,
  blockFeature,
  requestStatus,
  sectorSize,
  segment,
  segmentUnmap,
} from '../../wire/virtio/block.ts'
import { ringFeature } from '../../wire/virtio/ring.ts'

export interface BlockDeviceOptions {
  readonly edge: Edge
  readonly writable: boolean
  /** Every write is on stable storage before it is acknowledged, unless the guest turns its cache on. */
  readonly writethrough: boolean
  readonly queues: number
  readonly logicalBlockSize: number
}

/** What the guest reads where it asks for a serial number, as QEMU's. */
export const deviceId = Buffer.from('vhost_user_blk\0')

/** Parts of one request, so that with its header and status it fits a queue of 128. */
const maxSegments = 126

/** Of one request to discard or zero. */
const maxRangeSectors = 32_768

const writethroughIo = { ...plainWriteIo, fua: true }

export class BlockDevice {
  readonly options: BlockDeviceOptions
  /** Whether the guest has a write cache, which it flushes. */
  #writeback: boolean

  constructor(options: BlockDeviceOptions) {
    this.options = options
    this.#writeback = !options.writethrough
  }

  /** Sets of bits. */
  get features(): bigint {
    const { writable } = this.options
    return bits([
      ...Object.values(blockFeature).filter((bit) => !writable || bit !== blockFeature.readOnly),
      ...Object.values(ringFeature),
      ...Object.values(vhostFeature),
    ])
  }

  readonly protocolFeatures = bits(Object.values(protocolFeature))

  /** Sectors of 512 bytes. */
  get capacity(): number {
    return Math.floor(this.options.edge.size / sectorSize)
  }

  /** The configuration as the guest reads it. */
  config(): Uint8Array {
    const { logicalBlockSize, queues } = this.options
    return blockConfig.encode({
      capacity: this.capacity,
      // QEMU's: a guest takes it for its own limit.
      sizeMax: 0,
      segMax: maxSegments,
      ...{ cylinders: 0, heads: 0, sectors: 0 },
      blockSize: logicalBlockSize,
      ...{ physicalBlockExponent: 0, alignmentOffset: 0, minIoSize: 1, optIoSize: 1 },
      writeback: this.#writeback ? 1 : 0,
      unused0: 0,
      queues,
      maxDiscardSectors: maxRangeSectors,
      maxDiscardSegments: 1,
      discardSectorAlignment: logicalBlockSize / sectorSize,
      maxWriteZeroesSectors: maxRangeSectors,
      maxWriteZeroesSegments: 1,
      writeZeroesMayUnmap: 0,
      unused1: new Uint8Array(3),
    })
  }

  /** The guest may turn its write cache on and off, and nothing else; false for that. */
  setConfig(offset: number, bytes: Uint8Array): boolean {
    if (offset !== blockConfig.offsets.writeback || bytes.length !== 1) return false
    this.#writeback = bytes[0] !== 0
    return true
  }

  /** Whether the disk has so many bytes at a sector: whole sectors, from where a logical block begins. */
  has(sector: number, length: number): boolean {
    const { logicalBlockSize } = this.options
    if (length % sectorSize !== 0 || sector % (logicalBlockSize / sectorSize) !== 0) return false
    return sector + length / sectorSize <= this.capacity
  }

  read(offset: number, target: Uint8Array): Completion {
    return this.options.edge.read(offset, target, plainIo)
  }

  /** `flushes`: the guest knows of its write cache. */
  write(offset: number, source: Uint8Array, flushes: boolean): Completion {
    return this.options.edge.write(offset, source, this.#writeIo(flushes))
  }

  flush(): Completion {
    return this.options.edge.flush(plainIo)
  }

  /** A request to discard or zero, whose parameters are `bytes`; its status. */
  async clear(bytes: Uint8Array, zero: boolean, flushes: boolean): Promise<number> {
    const { ok, ioError, unsupported } = requestStatus
    const { edge, writable } = this.options
    if (!writable || bytes.length < segment.size) return ioError
    if (bytes.length > segment.size) return unsupported
    const { sector, sectors, flags } = segment.decode(bytes)
    const allowed = zero ? segmentUnmap : 0
    const length = sectors * sectorSize
    if (sectors > maxRangeSectors || !this.has(sector, length)) return ioError
    if ((flags & ~allowed) !== 0) return unsupported
    if (length === 0) return ok
    if (!zero) await edge.discard(sector * sectorSize, length, plainIo)
    else {
      const io = {
        ...this.#writeIo(flushes),
        mayUnmap: (flags & segmentUnmap) !== 0,
        fastOnly: false,
      }
      await edge.writeZeroes(sector * sectorSize, length, io)
    }
    return ok
  }

  #writeIo(flushes: boolean): WriteIo {
    return this.#writeback && flushes ? plainWriteIo : writethroughIo
  }
}

/** What a request that has failed tells the guest. */
export function statusOf(error: unknown): number {
  return errnoOf(error) === 'ENOTSUP' ? requestStatus.unsupported : requestStatus.ioError
}

function bits(numbers: readonly number[]): bigint {
  return numbers.reduce((set, bit) => set | (1n << BigInt(bit)), 0n)
}
