/** One device of an archive that is being written: which of its clusters are stored, and how much that is. */
import { BlockError } from '../../errors.ts'
import { ClusterSet, type PageBudget } from './cluster-set.ts'
import { isVmstate, type VmaDevice } from './header.ts'
import { clusterSize, maxDeviceClusters } from './structures.ts'

export interface VmaStreamStatus extends VmaDevice {
  /** Bytes of the device that have been stored, zeroes included. */
  readonly transferred: number
  readonly zeroBytes: number
  readonly finished: boolean
}

export class DeviceStream implements VmaDevice {
  readonly id: number
  readonly name: string
  /** Bytes; of a vmstate an estimate. */
  readonly size: number
  /** Whether it is a stream of clusters 0, 1, 2, ... that ends when it is closed. */
  readonly vmstate: boolean
  finished = false
  readonly #stored: ClusterSet
  #transferred = 0
  #zeroBytes = 0

  constructor({ id, name, size }: VmaDevice, pages: PageBudget) {
    this.id = id
    this.name = name
    this.size = size
    this.vmstate = isVmstate({ id, name, size })
    const clusters = this.vmstate ? maxDeviceClusters : Math.ceil(size / clusterSize)
    this.#stored = new ClusterSet(clusters, pages)
  }

  get status(): VmaStreamStatus {
    const { id, name, size, finished } = this
    return {
      id,
      name,
      size,
      transferred: this.#transferred,
      zeroBytes: this.#zeroBytes,
      finished,
    }
  }

  /** Checks what is to be stored and marks its cluster; returns the bytes of the disk that it stands for. */
  claim(cluster: number, data: Uint8Array | undefined): number {
    const fault = this.#faultOf(cluster)
    if (fault) throw this.#refused(`cluster ${cluster} ${fault}`)
    const bytes = this.vmstate
      ? clusterSize
      : Math.min(clusterSize, this.size - cluster * clusterSize)
    if (data && data.length !== clusterSize && data.length !== bytes) {
      throw this.#refused(`cluster ${cluster} came with ${data.length} bytes instead of ${bytes}`)
    }
    return bytes
  }

  count(bytes: number, zeroBytes: number): void {
    this.#transferred += bytes
    this.#zeroBytes += zeroBytes
  }

  /** Throws unless it was closed with every cluster stored. */
  checkComplete(): void {
    const { name } = this
    if (!this.finished) {
      throw new BlockError('INVALID_ARGUMENT', `device '${name}' is still being written`)
    }
    if (!this.vmstate && !this.#stored.complete) {
      throw new BlockError(
        'INVALID_ARGUMENT',
        `device '${name}' is incomplete: ${this.#transferred} of ${this.size} bytes`,
      )
    }
  }

  #faultOf(cluster: number): string | undefined {
    const stored = this.#stored
    if (!Number.isInteger(cluster) || cluster < 0 || cluster >= stored.capacity) {
      return `lies outside the device, which has ${stored.capacity}`
    }
    if (this.vmstate && cluster !== stored.size) {
      return `is out of sequence: ${stored.size} comes next`
    }
    return stored.add(cluster) ? undefined : 'was stored before'
  }

  #refused(what: string): BlockError {
    return new BlockError('INVALID_ARGUMENT', `${this.name}: ${what}`)
  }
}
