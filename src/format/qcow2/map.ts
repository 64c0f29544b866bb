/**
 * The cluster map of a qcow2 image: where the disk's clusters lie, and what becomes of the tables
 * when they are written, zeroed or discarded. It changes tables in memory only; `write-back.ts`
 * brings them to the disk in an order that a crash cannot harm.
 */
import type { ClusterMap, StateArea } from '../../block/cluster-map.ts'
import {
  type Completion,
  type Extent,
  type HostRange,
  type Io,
  type Limits,
  plainIo,
  plainZeroIo,
  type ResizeIo,
  type WriteIo,
  type ZeroIo,
} from '../../block/layer.ts'
import { alignDown, alignUp } from '../../bytes/range.ts'
import { BlockError } from '../../errors.ts'
import { backingLink } from './backing-link.ts'
import type { ClusterAllocation } from './cluster-allocation.ts'
import { giveBackEnciphered, zeroDataFile } from './data-file.ts'
import { EntryChanges } from './entry-changes.ts'
import { entryFault } from './entry-signals.ts'
import { GuestAllocator } from './guest-allocator.ts'
import type { Qcow2Image } from './image.ts'
import { KeptClusters } from './kept-clusters.ts'
import { Lookup } from './lookup.ts'
import type { Qcow2Options } from './options.ts'
import { ownTable } from './own-table.ts'
import { takeSpace } from './preallocation.ts'
import { stateArea } from './state-area.ts'
import type { Table } from './table.ts'

/** The size of a disk is a multiple of this, and so are the requests on it. */
const sectorSize = 512

export class Qcow2Map implements ClusterMap {
  readonly limits: Limits
  readonly clusterSize: number
  readonly subclusterSize: number
  readonly abilities: ClusterMap['abilities']
  readonly stateArea?: StateArea
  readonly #image: Qcow2Image
  readonly #lookup: Lookup
  readonly #space: GuestAllocator
  readonly #changes: EntryChanges
  #closed: Promise<void> | undefined

  constructor(image: Qcow2Image, abilities: ClusterMap['abilities'], sparse = false) {
    const { layout, space } = image
    const fault = (table: Table, index: number, what: string): never => {
      throw entryFault(image, table, index, what)
    }
    this.#image = image
    this.#lookup = new Lookup(image, sparse)
    this.#space = new GuestAllocator(image)
    this.#changes = new EntryChanges(image, fault)
    this.abilities = { backingLink: backingLink(image), ...abilities }
    // A data file has no place behind the end of the disk.
    if (!layout.external) this.stateArea = stateArea(image)
    this.clusterSize = layout.clusterSize
    this.subclusterSize = layout.subclusterSize
    const { limits } = space.layer
    this.limits = {
      ...limits,
      // As in QEMU: only ciphers know sectors, and zeroes for a few bytes may still mark a cluster.
      alignment: space.enciphered ? Math.max(sectorSize, limits.alignment) : limits.alignment,
      zeroAlignment: layout.subclusterSize,
      discardAlignment: layout.clusterSize,
      preferredLength: layout.clusterSize,
    }
  }

  get size(): number {
    return this.#image.header.current.size
  }

  get readOnly(): boolean {
    return this.#image.readOnly
  }

  get zeroClusters(): boolean {
    return this.#image.layout.version >= 3
  }

  /** Of an image that records a backing file but is opened without, `discard` has to leave the data. */
  get dropsToZero(): boolean {
    return this.#image.header.current.backingFile === undefined
  }

  map(offset: number, length: number, io: Io): Extent | Promise<Extent> {
    return this.#lookup.map(offset, length, 'fua' in io)
  }

  allocate(
    offset: number,
    length: number,
    _io: Io,
  ): ClusterAllocation | Promise<ClusterAllocation> {
    return this.#space.take(offset, length)
  }

  async zero(offset: number, length: number, io: ZeroIo): Promise<void> {
    const { layout } = this.#image
    if (offset % layout.subclusterSize !== 0)
      throw new TypeError(`${offset} is within a subcluster`)
    // The disk's last cluster and subcluster may be cut off by its end; they are zeroed whole.
    const lastCluster = alignDown(this.size - 1, layout.clusterSize)
    const toTheEnd = offset <= lastCluster && offset + length >= this.size
    const end = alignUp(offset + length, toTheEnd ? layout.clusterSize : layout.subclusterSize)
    await zeroDataFile(this.#image, offset, length, io)
    const mayUnmap = io.mayUnmap && !this.#image.raw
    const kept = new KeptClusters(this.#image)
    const zero = (table: Table, index: number, from: number, to: number) => {
      if (to - from < layout.clusterSize) {
        kept.note(this.#changes.zeroPart(table, index, from, to, mayUnmap))
      } else {
        kept.note(this.#changes.zero(table, index, mayUnmap))
      }
    }
    await this.#image.corruption.during(() => this.#eachEntry(offset, end, 'create', zero))
    await kept.giveBackSpace()
    if (this.#image.dataFile) await giveBackEnciphered(this.#image, offset, length, io)
  }

  async discard(offset: number, length: number, io: Io, shows: boolean): Promise<void> {
    const zeroIo = { ...plainZeroIo, signal: io.signal, mayUnmap: true }
    if (this.#image.dataFile) {
      if (this.#image.raw) return await this.zero(offset, length, zeroIo)
      await zeroDataFile(this.#image, offset, length, zeroIo)
    }
    const backed = shows || this.#image.header.current.backingFile !== undefined
    // Version 2 can only say "ask the backing file", which would bring old data back.
    if (backed && !this.zeroClusters) return
    const kept = new KeptClusters(this.#image)
    const discard = (table: Table, index: number) =>
      kept.note(this.#changes.discard(table, index, backed))
    await this.#image.corruption.during(() =>
      this.#eachEntry(offset, offset + length, backed ? 'create' : 'skip', discard),
    )
    await kept.giveBackSpace()
    if (this.#image.dataFile) await giveBackEnciphered(this.#image, offset, length, zeroIo)
  }

  get debugEvent(): ClusterMap['debugEvent'] {
    return this.#image.file.layer.debugEvent
  }

  async readEncoded(offset: number, target: Uint8Array, io: Io): Promise<void> {
    await this.#image.compressed.read(offset, target, io)
  }

  async writeEncoded(offset: number, source: Uint8Array, io: WriteIo): Promise<void> {
    if (this.#image.dataFile) {
      throw this.#image.faults.unsupported('Compression is not possible with a data file')
    }
    if (this.#image.space.enciphered) {
      const message = 'compressed clusters cannot be written to an encrypted image'
      throw new BlockError('UNSUPPORTED', message, { offset, errno: 'EIO' })
    }
    await this.#image.releaseMany()
    const stored = await this.#image.corruption.during(() =>
      this.#image.compressed.write(offset, source),
    )
    if (!stored) await this.#writePlain(offset, source, io)
  }

  async truncate(size: number, io: ResizeIo, endsBlank: boolean): Promise<void> {
    const before = this.size
    const { preallocation = 'off' } = io
    await this.#image.corruption.during(() => this.#image.resize(size, io))
    const { raw, space } = this.#image
    if (size <= before || (!raw && preallocation === 'off')) return
    const behind = alignUp(before, this.clusterSize)
    try {
      // In a raw data file every cluster of the disk has its place already.
      const lacksPlace = !raw && (endsBlank || (await this.#storesNothing(before, behind, io)))
      const start = lacksPlace ? alignDown(before, this.clusterSize) : behind
      await this.place(start, io, takeSpace(preallocation, raw))
    } catch (error) {
      // All or nothing. What fails now leaves the disk larger, which harms nobody.
      await this.#image.resize(before, plainIo).catch(() => {})
      throw error
    }
    // Nothing but a mark says "zeroes" at once; version 2 has none, and keeps what was enciphered.
    if (space.enciphered && this.zeroClusters && size > behind) {
      await this.zero(behind, size - behind, { ...plainZeroIo, signal: io.signal })
    }
  }

  /** Whether no subcluster of the one cluster in which `from` and `to` lie has data. */
  async #storesNothing(before: number, behind: number, io: Io): Promise<boolean> {
    if (!this.#image.layout.extended || before === behind) return false
    for (let at = alignDown(before, this.clusterSize); at < behind; ) {
      const run = await this.map(at, behind - at, io)
      if (run.kind === 'data' || run.kind === 'encoded') return false
      at += run.length
    }
    return true
  }

  /** Gives every cluster from `offset` on its place; `fill` prepares it. */
  async place(
    offset: number,
    io: Io,
    fill: (host: HostRange, zeroed: boolean) => Completion,
  ): Promise<void> {
    for (let at = offset; at < this.size; ) {
      io.signal.throwIfAborted()
      const allocation = await this.allocate(at, this.size - at, io)
      const { guest, host, zeroed } = allocation
      try {
        await fill(host, zeroed)
      } catch (error) {
        await allocation.abandon()
        throw error
      }
      // What is in a raw data file is on the disk; elsewhere subclusters wait for being written.
      if (this.#image.raw) allocation.link()
      else allocation.keep()
      at = guest.offset + guest.length
    }
  }

  async reread(): Promise<void> {
    await this.#image.reread()
  }

  async reopen(options: unknown): Promise<void> {
    await this.#image.reopen((options as Qcow2Options).settings)
  }

  async setReadOnly(readOnly: boolean): Promise<void> {
    await this.#image.setReadOnly(readOnly)
  }

  flush(io: Io): Completion {
    return this.#image.writeBack.flush(io)
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.#closed ??= this.#image.close()
    return this.#closed
  }

  /** One whole cluster as it is; the disk's last is filled up with zeroes. */
  async #writePlain(offset: number, source: Uint8Array, io: WriteIo): Promise<void> {
    const allocation = await this.allocate(offset, this.clusterSize, io)
    const cluster = new Uint8Array(this.clusterSize)
    cluster.set(source)
    try {
      await allocation.host.layer.write(allocation.host.offset, cluster, io)
    } catch (error) {
      await allocation.abandon()
      throw error
    }
    allocation.link()
  }

  /**
   * Goes through the entries of a range, whose tables are ready to be changed: `from` and `to` are
   * the bytes of the cluster that lie in the range.
   */
  async #eachEntry(
    offset: number,
    end: number,
    missing: 'create' | 'skip',
    change: (table: Table, index: number, from: number, to: number) => void,
  ): Promise<void> {
    const { l2Tables, layout } = this.#image
    for (let at = offset; at < end; ) {
      const l1Index = layout.l1Index(at)
      const stop = Math.min(end, (l1Index + 1) * layout.coverage)
      if (missing === 'create' || !l2Tables.isMissing(l1Index)) {
        const table = await ownTable(this.#image, l1Index)
        try {
          while (at < stop) {
            const from = at % this.clusterSize
            const to = Math.min(this.clusterSize, from + stop - at)
            change(table, layout.l2Index(at), from, to)
            at += to - from
          }
        } finally {
          table.unpin()
        }
      }
      at = stop
      await this.#image.releaseMany()
    }
  }
}
