/**
 * Compressed clusters. Their data is packed byte to byte: several share a host cluster, which then
 * has as many references, and one may reach into the next.
 */
import { type Io, plainWriteIo } from '../../block/layer.ts'
import { KiB } from '../../bytes/range.ts'
import { BlockError } from '../../errors.ts'
import { compress, decompress } from './compression.ts'
import { compressionTypes } from './header.ts'
import type { Qcow2Image } from './image.ts'
import { highOf, kind, lowOf, setEntry } from './l2-table.ts'
import { type HostOffset, hostOffset } from './offsets.ts'
import { ownTable } from './own-table.ts'
import { setSubclusters } from './subclusters.ts'

/** Bytes of decompressed clusters kept for those who read them in small pieces. */
const keptBytes = 512 * KiB

/** Clusters of one read that are decompressed at the same time. */
const maxInFlight = 8

export class CompressedClusters {
  readonly #image: Qcow2Image
  /** Decompressed clusters, or promises of them, by the place of their data; oldest first. */
  readonly #kept = new Map<number, Promise<Uint8Array>>()
  readonly #maxKept: number
  /** Where the next data goes, inside a cluster that has some already; 0: into a new cluster. */
  #next = 0
  /** Allocations run one after the other. Never rejects. */
  #allocating: Promise<unknown> = Promise.resolve()

  constructor(image: Qcow2Image) {
    this.#image = image
    this.#maxKept = Math.max(1, Math.floor(keptBytes / image.layout.clusterSize))
  }

  /** Fills `target` from a range in which all clusters are compressed. */
  async read(offset: number, target: Uint8Array, io: Io): Promise<void> {
    const { clusterSize } = this.#image.layout
    let pending: Promise<void>[] = []
    for (let at = 0; at < target.length; ) {
      const within = (offset + at) % clusterSize
      const length = Math.min(target.length - at, clusterSize - within)
      pending.push(this.#readPart(offset + at, target.subarray(at, at + length), io))
      at += length
      if (pending.length < maxInFlight && at < target.length) continue
      const batch = pending
      pending = []
      for (const result of await Promise.allSettled(batch)) {
        if (result.status === 'rejected') throw result.reason
      }
    }
  }

  /**
   * Stores one whole cluster compressed. False, and nothing done, where that would be no smaller.
   */
  async write(offset: number, source: Uint8Array): Promise<boolean> {
    const { file, layout } = this.#image
    const packed = await compress(this.#type, this.#whole(source))
    if (packed) await file.at('cluster_alloc_bytes')
    const place = packed && (await this.#allocate(packed.length))
    if (!packed || place === undefined) return false
    try {
      await file.at('write_compressed')
      await file.layer.write(place, packed, plainWriteIo)
      const table = await ownTable(this.#image, layout.l1Index(offset))
      const index = layout.l2Index(offset)
      const word = layout.wordOf(index)
      this.#image.releaseEntry(highOf(table.view, word), lowOf(table.view, word), 'other')
      setEntry(table.view, word, layout.compressedHigh(place, packed.length), place % 2 ** 32)
      if (layout.extended) setSubclusters(table.view, index, 0, 0)
      table.touchRange(index * layout.entryBytes, layout.entryBytes)
      table.unpin()
    } catch (error) {
      await this.#giveBack(place, packed.length)
      throw error
    }
    return true
  }

  /** A reference to these clusters (numbers, not offsets) goes away: they may be used anew. */
  forget(first: number, count: number): void {
    this.#kept.clear()
    const current = Math.floor(this.#next / this.#image.layout.clusterSize)
    if (current >= first && current < first + count) this.#next = 0
  }

  /** Starts from the beginning: somebody else has changed the file. */
  reset(): void {
    this.#kept.clear()
    this.#next = 0
  }

  get #type() {
    return compressionTypes[this.#image.header.current.compressionType]
  }

  /** The disk's last cluster may come cut off; it is stored whole. */
  #whole(source: Uint8Array): Uint8Array {
    const { clusterSize } = this.#image.layout
    if (source.length === clusterSize) return source
    const whole = new Uint8Array(clusterSize)
    whole.set(source)
    return whole
  }

  async #readPart(offset: number, target: Uint8Array, io: Io): Promise<void> {
    const { l2Tables, layout } = this.#image
    const l1Index = layout.l1Index(offset)
    const table = await l2Tables.load(l1Index)
    table.unpin()
    const index = layout.l2Index(offset)
    const high = highOf(table.view, layout.wordOf(index))
    const low = lowOf(table.view, layout.wordOf(index))
    const fault = layout.faultAt(table.view, index)
    const at = table.offset + index * layout.entryBytes
    if (fault !== undefined) throw this.#image.faults.corruptEntry(index, fault, at)
    if (layout.kindOf(high, low) !== kind.compressed) {
      throw new TypeError(`the cluster at ${offset} is not compressed`)
    }
    const place = layout.compressedOffset(high, low)
    const cluster = await this.#cluster(place, layout.compressedLength(high, low), io)
    const within = offset % layout.clusterSize
    target.set(cluster.subarray(within, within + target.length))
  }

  #cluster(place: HostOffset, length: number, io: Io): Promise<Uint8Array> {
    const kept = this.#kept.get(place)
    if (kept) return kept
    const cluster = this.#decompress(place, length, io)
    this.#kept.set(place, cluster)
    if (this.#kept.size > this.#maxKept) {
      for (const oldest of this.#kept.keys()) {
        this.#kept.delete(oldest)
        break
      }
    }
    // A failure is not kept: the next one who asks tries again.
    cluster.catch(() => {
      if (this.#kept.get(place) === cluster) this.#kept.delete(place)
    })
    return cluster
  }

  async #decompress(place: HostOffset, length: number, io: Io): Promise<Uint8Array> {
    const { file, layout, faults } = this.#image
    if (place >= file.size) {
      throw faults.corrupt('compressed data lies behind the end of the file', place)
    }
    const packed = new Uint8Array(Math.min(length, file.size - place))
    await file.read(place, packed, io)
    let cluster: Uint8Array
    try {
      cluster = await decompress(this.#type, packed, layout.clusterSize)
    } catch (cause) {
      throw new BlockError('CORRUPT_IMAGE', faults.corrupt('compressed data is broken').message, {
        offset: place,
        errno: 'EIO',
        cause,
      })
    }
    if (cluster.length === layout.clusterSize) return cluster
    throw faults.corrupt(
      `compressed data ends after ${cluster.length} of ${layout.clusterSize} bytes`,
      place,
    )
  }

  /** Space for `length` bytes, counted; undefined where the format cannot point at it. */
  #allocate(length: number): Promise<HostOffset | undefined> {
    const place = this.#allocating.then(() => this.#allocateNext(length))
    this.#allocating = place.catch(() => {})
    return place
  }

  async #allocateNext(length: number): Promise<HostOffset | undefined> {
    const { file, layout } = this.#image
    const place = (await this.#append(length)) ?? (await this.#begin())
    if (place + length > layout.compressedEnd) {
      await this.#giveBack(place, length)
      return undefined
    }
    file.claim(place, length)
    this.#next = place + length
    // A cluster that is exactly full has no room for more.
    if (this.#next % layout.clusterSize === 0) this.#next = 0
    return place
  }

  /** Behind the data that came last, reaching into the next cluster if that is free. */
  async #append(length: number): Promise<HostOffset | undefined> {
    const { allocator, layout } = this.#image
    const { clusterSize } = layout
    const place = this.#next
    if (place === 0) return undefined
    const room = clusterSize - (place % clusterSize)
    const current = Math.floor(place / clusterSize)
    const next = { offset: hostOffset((current + 1) * clusterSize), count: 1 }
    const reaches = length > room
    if (reaches && !allocator.takeExactly(current + 1)) return undefined
    const shared =
      this.#next === place && (await allocator.share(hostOffset(place - (place % clusterSize))))
    if (shared && this.#next === place) return hostOffset(place)
    if (shared) await allocator.giveBack({ offset: hostOffset(current * clusterSize), count: 1 })
    if (reaches) await allocator.giveBack(next)
    return undefined
  }

  async #begin(): Promise<HostOffset> {
    const { allocator } = this.#image
    const run = await allocator.take(1)
    return run.offset
  }

  /** Takes back the references of space that nothing points at. */
  async #giveBack(place: HostOffset, length: number): Promise<void> {
    const { allocator, layout } = this.#image
    const first = Math.floor(place / layout.clusterSize)
    const count = Math.ceil((place + length) / layout.clusterSize) - first
    this.forget(first, count)
    await allocator.giveBack({ offset: hostOffset(first * layout.clusterSize), count })
  }
}
