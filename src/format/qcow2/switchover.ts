/**
 * A new state of the image's metadata, built beside the one in force and put in force by one write
 * of the header's first sector. For changes of everything at once, as the verbs of snapshots are:
 * with counts, flags and tables written one after the other there would always be a moment at which
 * they disagree.
 *
 * Order:
 *   1. what the counts will be is worked out in memory; whatever cannot be (a count that its width
 *      cannot hold, a reference to a cluster that is not counted) is refused here, before a byte
 *      of the file has changed;
 *   2. changed tables, the refcount blocks that count anything that changes, and the refcount
 *      table are written to clusters that are free before as well as afterwards;
 *   3. flush;
 *   4. the header's first sector: places and sizes of the refcount table, the L1 table and the
 *      snapshot table, and the size of the disk;
 *   5. flush.
 * A crash before 4 is on stable storage leaves the image as it was, down to the counts, and after
 * it, as it is to be; nothing is leaked either way. What the old state alone consisted of is free
 * from then on, and its space may go back to the file system.
 */
import { plainIo } from '../../block/layer.ts'
import { viewOf } from '../../bytes/view.ts'
import { isZero } from '../../bytes/zero.ts'
import type { Counts } from './check/counts.ts'
import { readStoredCounts } from './check/stored-counts.ts'
import { hex } from './faults.ts'
import type { FreeReason } from './frees.ts'
import type { Header } from './header.ts'
import type { Qcow2Image } from './image.ts'
import { entrySize, setShared } from './l2-table.ts'
import { maxRefcountTableBytes } from './limits.ts'
import { type HostOffset, hostOffset } from './offsets.ts'

/** The fields that can change. */
export type NewHeader = Partial<
  Pick<Header, 'l1Size' | 'l1TableOffset' | 'nbSnapshots' | 'snapshotsOffset' | 'size'>
>

interface Change {
  readonly first: number
  count: number
  readonly reason: FreeReason
}

export class Switchover {
  readonly #image: Qcow2Image
  readonly #before: Counts
  readonly #after: Counts
  /** Where the refcount blocks of now lie. */
  readonly #blocks: ReadonlyMap<number, number>
  /** Indices of blocks with a count that changes. */
  readonly #changed = new Set<number>()
  /** Where references went away: afterwards nothing may be there any more. */
  readonly #lowered: Change[] = []
  /** No cluster below is free. */
  #search = 1

  private constructor(
    image: Qcow2Image,
    before: Counts,
    after: Counts,
    blocks: ReadonlyMap<number, number>,
  ) {
    this.#image = image
    this.#before = before
    this.#after = after
    this.#blocks = blocks
  }

  /** Runs `work`, which ends with `commit` or throws, while nobody else changes the image. */
  static async run<T>(image: Qcow2Image, work: (change: Switchover) => Promise<T>): Promise<T> {
    const { file, faults, header, writeBack } = image
    await writeBack.finish()
    let result: T
    await writeBack.withHeader(async () => {
      const stored = await readStoredCounts({ file, faults, header: header.current })
      for (const fault of stored.faults.values()) {
        const { refcountTableOffset } = header.current
        throw faults.corrupt(`${fault}; check and repair it`, refcountTableOffset)
      }
      result = await work(
        new Switchover(image, stored.counts, stored.counts.clone(), stored.blocks),
      )
    })
    return result!
  }

  /** What the refcount of a cluster will be, as far as that has been said. */
  countOf(cluster: number): number {
    return this.#after.get(cluster)
  }

  /** References to each of some consecutive clusters that come or, below zero, go. */
  refer(first: number, count: number, by: number, reason: FreeReason = 'snapshot'): void {
    const { layout } = this.#image.refcounts
    for (let cluster = first; cluster < first + count; cluster++) {
      const now = this.#after.get(cluster)
      if (now + by > layout.max) throw this.#overflow(cluster, now + by)
      if (now + by < 0 || (now === 0 && this.#before.get(cluster) === 0)) {
        throw this.#uncounted(cluster)
      }
      this.#after.set(cluster, now + by)
    }
    this.#note(first, count)
    if (by < 0) this.#noteLowered(first, count, reason)
  }

  clustersOf(bytes: number): number {
    return Math.ceil(bytes / this.#image.layout.clusterSize)
  }

  /** Clusters in a row that are free and remain so if nothing comes of this. */
  take(count = 1): HostOffset {
    const { clusterSize } = this.#image.layout
    const isFree = (cluster: number) =>
      this.#before.get(cluster) === 0 && this.#after.get(cluster) === 0
    if (count === 1) while (!isFree(this.#search)) this.#search++
    let first = this.#search
    for (let found = 0; found < count; ) {
      if (isFree(first + found)) found++
      else {
        first += found + 1
        found = 0
      }
    }
    this.#image.guard.check(first * clusterSize, count * clusterSize)
    for (let at = 0; at < count; at++) this.#after.set(first + at, 1)
    this.#note(first, count)
    return hostOffset(first * clusterSize)
  }

  /** Writes to a place that `take` gave. The rest of its last cluster becomes zeroes. */
  async write(offset: HostOffset, bytes: Uint8Array): Promise<void> {
    const { file, layout } = this.#image
    const clusters = Math.ceil(bytes.length / layout.clusterSize)
    const whole = new Uint8Array(clusters * layout.clusterSize)
    whole.set(bytes)
    await file.reserve(offset + whole.length)
    const zeroed = file.claim(offset, whole.length)
    if (zeroed && isZero(whole)) return
    await file.write(offset, zeroed ? withoutZeroEnd(whole) : whole)
  }

  /** Puts the new state in force. */
  async commit(fields: NewHeader): Promise<void> {
    const { file, header } = this.#image
    const refcountTable = await this.#writeCounts()
    await file.flush()
    await this.#switchHeader({ ...header.stored, ...fields, ...refcountTable })
    Object.assign(header.current, fields, refcountTable)
    await this.#orRefuse(this.#image.reload())
    await this.#giveBackSpace()
  }

  /** If the header cannot be written, the old one is put back; if not even that, nothing goes on. */
  async #switchHeader(next: Header): Promise<void> {
    const { file, header } = this.#image
    const former = { ...header.stored }
    try {
      await header.write(next, file)
      await file.flush()
    } catch (error) {
      const putBack = async () => {
        await header.write(former, file)
        await file.flush()
      }
      await this.#orRefuse(putBack())
      throw error
    }
  }

  async #orRefuse(work: Promise<void>): Promise<void> {
    try {
      await work
    } catch (error) {
      this.#image.corruption.giveUp('it is not known which state of its tables is in force')
      throw error
    }
  }

  #note(first: number, count: number): void {
    const { entries } = this.#image.refcounts.layout
    const last = Math.floor((first + count - 1) / entries)
    for (let index = Math.floor(first / entries); index <= last; index++) this.#changed.add(index)
  }

  #noteLowered(first: number, count: number, reason: FreeReason): void {
    const last = this.#lowered.at(-1)
    if (last?.reason === reason && last.first + last.count === first) last.count += count
    else this.#lowered.push({ first, count, reason })
  }

  /** Writes the refcount blocks that change, and the table that points at them. */
  async #writeCounts(): Promise<Pick<Header, 'refcountTableOffset' | 'refcountTableClusters'>> {
    const { file, layout, header } = this.#image
    const { refcountTableOffset, refcountTableClusters } = header.stored
    const { clusterSize } = layout
    const places = new Map<number, HostOffset>()
    this.refer(refcountTableOffset / clusterSize, refcountTableClusters, -1, 'other')
    this.#place(places)
    // The table's own place may ask for another block, and that for a longer table.
    let table = { offset: hostOffset(0), clusters: refcountTableClusters }
    while (table.offset === 0 || this.#tableClusters() > table.clusters) {
      const clusters = Math.max(table.clusters, this.#tableClusters())
      if (table.offset !== 0) this.#untake(table.offset, table.clusters)
      table = { offset: this.take(clusters), clusters }
      this.#place(places)
    }
    const entries = new Uint8Array(table.clusters * clusterSize)
    await file.read(
      refcountTableOffset,
      entries.subarray(0, refcountTableClusters * clusterSize),
      plainIo,
    )
    for (const [index, offset] of places) {
      await this.write(offset, await this.#block(index))
      setShared(viewOf(entries), index, offset)
    }
    await this.write(table.offset, entries)
    return { refcountTableOffset: table.offset, refcountTableClusters: table.clusters }
  }

  /** Finds a new place for every block that changes, which may change further ones. */
  #place(places: Map<number, HostOffset>): void {
    for (const index of this.#changed) {
      if (places.has(index)) continue
      places.set(index, this.take())
      const old = this.#blocks.get(index)
      if (old !== undefined) this.refer(old / this.#image.layout.clusterSize, 1, -1, 'other')
    }
  }

  #tableClusters(): number {
    const { layout, faults } = this.#image
    const last = Math.max(...this.#changed)
    const clusters = Math.ceil(((last + 1) * entrySize) / layout.clusterSize)
    if (clusters * layout.clusterSize <= maxRefcountTableBytes) return clusters
    throw faults.noSpace(
      `the refcount table has reached its limit of ${maxRefcountTableBytes} bytes`,
    )
  }

  #untake(offset: HostOffset, clusters: number): void {
    const first = offset / this.#image.layout.clusterSize
    for (let at = 0; at < clusters; at++) this.#after.set(first + at, 0)
  }

  /** A block as it will be; counts that stay are taken over to the bit. */
  async #block(index: number): Promise<Uint8Array> {
    const {
      file,
      layout: { clusterSize },
      refcounts: { layout },
    } = this.#image
    const bytes = new Uint8Array(clusterSize)
    const old = this.#blocks.get(index)
    if (old !== undefined) await file.read(old, bytes, plainIo)
    const view = viewOf(bytes)
    const first = index * layout.entries
    for (let at = 0; at < layout.entries; at++) {
      const after = this.#after.get(first + at)
      if (after !== this.#before.get(first + at)) layout.set(view, at, after)
    }
    return bytes
  }

  /** A hint: a file system that cannot do it keeps the space, which is then reused. */
  async #giveBackSpace(): Promise<void> {
    const { file, layout, writeBack } = this.#image
    for (const { first, count, reason } of this.#lowered) {
      if (!writeBack.discards.has(reason)) continue
      for (let at = first; at < first + count; ) {
        let end = at
        while (end < first + count && this.#after.get(end) === 0) end++
        if (end > at) {
          const offset = at * layout.clusterSize
          const length = Math.min((end - at) * layout.clusterSize, file.size - offset)
          if (length > 0) {
            await Promise.resolve(file.layer.discard(offset, length, plainIo)).catch(() => {})
          }
        }
        at = end + 1
      }
    }
  }

  #overflow(cluster: number, count: number) {
    const { layout } = this.#image.refcounts
    return this.#image.faults.invalid(
      `the cluster at ${hex(cluster * this.#image.layout.clusterSize)} would have ${count} ` +
        `references, and refcounts of ${layout.bits} bits count to ${layout.max}`,
    )
  }

  #uncounted(cluster: number) {
    const offset = cluster * this.#image.layout.clusterSize
    return this.#image.faults.corrupt(
      `the refcount of the cluster at ${hex(offset)} is too low; check and repair the image`,
      offset,
    )
  }
}

/** Bytes up to the last that is not zero, in pages. */
function withoutZeroEnd(bytes: Uint8Array): Uint8Array {
  let end = bytes.length
  while (end > pageSize && isZero(bytes.subarray(end - pageSize, end))) end -= pageSize
  return bytes.subarray(0, end)
}

const pageSize = 512
