/**
 * Judges an archive while its extents pass by: every cluster of every device exactly once, nothing
 * outside a device, a vmstate in sequence, and an index that is whole and says the same as what
 * was seen. What other programs wrote is held to the format alone.
 */
import { BlockError } from '../../errors.ts'
import {
  type ArchiveIndex,
  decodeIndex,
  decodeIndexPage,
  IndexBuilder,
  maxIndexPages,
} from './archive-index.ts'
import { ClusterSet, maxOpenPages } from './cluster-set.ts'
import { type DecodedExtent, maskOf, type StoredCluster } from './extent.ts'
import { isVmstate, type StoredHeader, type VmaDevice } from './header.ts'
import { clusterSize, extentHeader, maxDeviceClusters } from './structures.ts'

interface CheckedDevice extends VmaDevice {
  readonly vmstate: boolean
  readonly seen: ClusterSet
}

export class ArchiveCheck {
  readonly #header: StoredHeader
  readonly #devices = new Map<number, CheckedDevice>()
  readonly #index: IndexBuilder
  readonly #pages: Uint8Array[] = []
  /** How many pages the index has, once its first one was seen. */
  #pageCount: number | undefined

  constructor(header: StoredHeader) {
    this.#header = header
    this.#index = new IndexBuilder(header)
    const budget = { left: maxOpenPages }
    for (const device of header.devices) {
      const vmstate = isVmstate(device)
      const clusters = vmstate ? maxDeviceClusters : Math.ceil(device.size / clusterSize)
      this.#devices.set(device.id, { ...device, vmstate, seen: new ClusterSet(clusters, budget) })
    }
  }

  /** Takes the next extent, which lies at `offset`; `raw` holds its header. */
  add(offset: number, raw: Uint8Array, extent: DecodedExtent): void {
    if (this.#takePage(offset, raw, extent)) return
    if (this.#pageCount !== undefined) throw corrupt(offset, 'follows the index')
    if (this.#header.extensions.checksums && extent.checksum === undefined) {
      throw corrupt(offset, 'has no checksum, though the header promises one')
    }
    for (const cluster of extent.clusters) this.#takeCluster(offset, cluster)
    this.#index.add(extentHeader.size + extent.dataSize, deviceIds(extent), extent.md5)
  }

  /** The archive ends at `offset`. Throws when something is missing. */
  finish(offset: number): ArchiveIndex {
    for (const device of this.#devices.values()) {
      const missing = device.vmstate ? undefined : device.seen.firstMissing()
      if (missing !== undefined) {
        throw new BlockError(
          'CORRUPT_IMAGE',
          `the archive is incomplete: device '${device.name}' has ${device.seen.size} of ` +
            `${device.seen.capacity} clusters, number ${missing} is missing`,
          { offset },
        )
      }
    }
    const found = this.#index.finish()
    if (this.#header.extensions.index) this.#checkIndex(found, offset)
    return found
  }

  #takeCluster(offset: number, { deviceId, cluster, mask }: StoredCluster): void {
    const device = this.#devices.get(deviceId)
    if (!device) throw corrupt(offset, `names device ${deviceId}, which the header does not have`)
    if (cluster >= device.seen.capacity) {
      throw corrupt(offset, `has cluster ${cluster} of '${device.name}', behind its end`)
    }
    if (device.vmstate && cluster !== device.seen.size) {
      throw corrupt(offset, `has cluster ${cluster} of the vmstate, not ${device.seen.size}`)
    }
    if (!device.vmstate && mask > maskOf(device.size - cluster * clusterSize)) {
      throw corrupt(offset, `stores blocks behind the end of '${device.name}'`)
    }
    if (!device.seen.add(cluster)) {
      throw corrupt(offset, `has cluster ${cluster} of '${device.name}' for the second time`)
    }
  }

  #takePage(offset: number, raw: Uint8Array, extent: DecodedExtent): boolean {
    if (!this.#header.extensions.index || extent.clusters.length > 0) return false
    const page = decodeIndexPage(raw)
    if (!page) return false
    this.#pageCount ??= page.pages
    if (page.pages > maxIndexPages || page.pages !== this.#pageCount) {
      throw corrupt(offset, `claims an index of ${page.pages} pages`)
    }
    if (page.page !== this.#pages.length) {
      throw corrupt(offset, `is page ${page.page} of the index, not ${this.#pages.length}`)
    }
    this.#pages.push(page.content)
    return true
  }

  #checkIndex(found: ArchiveIndex, offset: number): void {
    if (this.#pages.length !== this.#pageCount) {
      throw new BlockError(
        'CORRUPT_IMAGE',
        `the archive is truncated: ${this.#pages.length} of ${this.#pageCount ?? 'all'} index pages are there`,
        { offset },
      )
    }
    const stored = decodeIndex(Buffer.concat(this.#pages), this.#header.size, found.dataEnd)
    if (!sameIndex(stored, found)) {
      throw corrupt(found.dataEnd, 'begins an index that contradicts the archive')
    }
  }
}

function sameIndex(one: ArchiveIndex, other: ArchiveIndex): boolean {
  return (
    one.extentCount === other.extentCount &&
    Buffer.compare(one.digest, other.digest) === 0 &&
    JSON.stringify(one.groups) === JSON.stringify(other.groups)
  )
}

function* deviceIds(extent: DecodedExtent): Generator<number> {
  for (const { deviceId } of extent.clusters) yield deviceId
}

export function corrupt(offset: number, what: string): BlockError {
  return new BlockError('CORRUPT_IMAGE', `the extent at byte ${offset} ${what}`, { offset })
}
