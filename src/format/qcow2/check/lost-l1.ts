/**
 * Finding the active L1 table where the header does not lead to it any more. It is among the clusters
 * that nothing else refers to, and each of its entries leads to what can be an L2 table; of all that
 * look so it is the one from which the most of those clusters are reached, for it reaches whatever one
 * of its L2 tables would seem to lead to. Where two reach as much none is taken, and where no refcount
 * says what is in use, neither if there is any other that it does not reach: one may be of long ago.
 */
import { plainIo } from '../../../block/layer.ts'
import { viewOf } from '../../../bytes/view.ts'
import {
  clusterOf,
  entrySize,
  highOf,
  kind,
  L2Layout,
  l1Fault,
  lowOf,
  offsetOf,
} from '../l2-table.ts'
import { Counts } from './counts.ts'
import { look } from './look.ts'
import type { CheckedImage, References } from './references.ts'
import { areSound, clustersOf, readStoredCounts, type StoredCounts } from './stored-counts.ts'

/** What looks like an L1 table is followed so often; images that have more were made to. */
const maxFollowed = 64

/** Enough of a table to tell it from most other things. */
const firstBytes = 512

/** Where the table of `header.l1Size` entries lies; undefined where that is not sure. */
export async function findL1Table(image: CheckedImage): Promise<number | undefined> {
  if (image.header.l1Size === 0) return undefined
  const others = { ...image, header: { ...image.header, l1Size: 0 } }
  const stored = await readStoredCounts(others)
  return await new L1Search(image, await look(others, stored), stored).find()
}

interface Reach {
  /** Cluster of the table. */
  readonly first: number
  readonly clusters: Counts
  /** How many of them nothing else refers to. */
  readonly count: number
}

class L1Search {
  readonly #image: CheckedImage
  readonly #layout: L2Layout
  /** Everything but what the table leads to. */
  readonly #others: References
  readonly #stored: StoredCounts
  readonly #clusters: number
  /** Clusters of the table. */
  readonly #length: number
  /** Places where there can be no L2 table. */
  readonly #noTables = new Set<number>()

  constructor(image: CheckedImage, others: References, stored: StoredCounts) {
    this.#image = image
    this.#layout = new L2Layout(image.header)
    this.#others = others
    this.#stored = stored
    this.#clusters = clustersOf(image)
    this.#length = Math.ceil((image.header.l1Size * entrySize) / this.#layout.clusterSize)
  }

  async find(): Promise<number | undefined> {
    if (await this.#isThere()) return undefined
    const candidates: number[] = []
    let followed = 0
    let best: Reach | undefined
    let alone = false
    for (let cluster = 1; cluster + this.#length <= this.#clusters; cluster++) {
      const tables = await this.#tablesOf(cluster)
      if (!tables) continue
      if (followed++ === maxFollowed) return undefined
      const reach = await this.#reachFrom(cluster, tables)
      if (!reach) continue
      candidates.push(cluster)
      if (best && reach.count <= best.count) {
        alone &&= reach.count < best.count
        continue
      }
      best = reach
      alone = true
    }
    if (!best || !alone) return undefined
    const { clusters, first } = best
    const sure = areSound(this.#stored) || candidates.every((at) => clusters.get(at) > 0)
    return sure ? first * this.#layout.clusterSize : undefined
  }

  /** Whether most entries of the table where the header says lead to L2 tables: then it is the one. */
  async #isThere(): Promise<boolean> {
    const { clusterSize } = this.#layout
    const { l1TableOffset, l1Size } = this.#image.header
    if (l1TableOffset % clusterSize !== 0 || l1TableOffset < clusterSize) return false
    if (l1TableOffset >= this.#image.file.size) return false
    const view = viewOf(await this.#read(l1TableOffset, l1Size * entrySize))
    let used = 0
    let right = 0
    for (let index = 0; index < l1Size; index++) {
      const high = highOf(view, index)
      const low = lowOf(view, index)
      if (high === 0 && low === 0) continue
      used++
      const offset = offsetOf(high, low)
      if (l1Fault(high, low, clusterSize) || offset >= this.#image.file.size) continue
      if (await this.#clustersOf(offset, index)) right++
    }
    return right * 2 > used
  }

  /** The L2 tables that an L1 table would lead to; undefined where there can be no L1 table. */
  async #tablesOf(cluster: number): Promise<ReadonlyMap<number, number> | undefined> {
    if (!this.#others.counts.areZero(cluster, this.#length)) return undefined
    if (areSound(this.#stored) && this.#stored.counts.get(cluster) === 0) return undefined
    const { clusterSize } = this.#layout
    const length = this.#image.header.l1Size * entrySize
    const first = await this.#read(cluster * clusterSize, Math.min(length, firstBytes))
    if (!this.#l1Entries(first)) return undefined
    const tables = this.#l1Entries(await this.#read(cluster * clusterSize, length))
    return tables && tables.size > 0 ? tables : undefined
  }

  /** The index of each. */
  #l1Entries(bytes: Uint8Array): ReadonlyMap<number, number> | undefined {
    const { clusterSize } = this.#layout
    const view = viewOf(bytes)
    const tables = new Map<number, number>()
    for (let index = 0; index < bytes.length / entrySize; index++) {
      const high = highOf(view, index)
      const low = lowOf(view, index)
      if (high === 0 && low === 0) continue
      const offset = offsetOf(high, low)
      if (l1Fault(high, low, clusterSize) || offset === 0) return undefined
      if (offset >= this.#clusters * clusterSize || tables.has(offset)) return undefined
      tables.set(offset, index)
    }
    return tables
  }

  /** Undefined if one of the tables is none. */
  async #reachFrom(first: number, tables: ReadonlyMap<number, number>): Promise<Reach | undefined> {
    const { clusterSize } = this.#layout
    const reached = new Counts()
    let count = this.#length
    reached.addRange(first, this.#length, 1)
    const reach = (at: number) => {
      if (reached.get(at) > 0) return
      reached.add(at, 1)
      if (this.#others.counts.get(at) === 0) count++
    }
    for (const [table, index] of tables) {
      if (this.#noTables.has(table)) return undefined
      const clusters = await this.#clustersOf(table, index)
      if (!clusters) {
        this.#noTables.add(table)
        return undefined
      }
      reach(table / clusterSize)
      for (const at of clusters) reach(at)
    }
    return { first, clusters: reached, count }
  }

  /** What the L2 table of an L1 entry leads to; undefined where there can be none. */
  async #clustersOf(table: number, l1Index: number): Promise<number[] | undefined> {
    const layout = this.#layout
    const view = viewOf(await this.#read(table, layout.clusterSize))
    const clusters: number[] = []
    for (let index = 0; index < layout.entries; index++) {
      if (layout.faultAt(view, index) !== undefined) return undefined
      const high = highOf(view, layout.wordOf(index))
      const low = lowOf(view, layout.wordOf(index))
      const entryKind = layout.kindOf(high, low)
      if (entryKind === kind.unallocated || entryKind === kind.zeroPlain) continue
      const compressed = entryKind === kind.compressed
      const place = compressed ? layout.compressedOffset(high, low) : clusterOf(high, low)
      if (layout.external) {
        if (place !== l1Index * layout.coverage + index * layout.clusterSize) return undefined
        continue
      }
      const cluster = Math.floor(place / layout.clusterSize)
      if (cluster === 0 || cluster >= this.#clusters) return undefined
      clusters.push(cluster)
    }
    return clusters
  }

  async #read(offset: number, length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(length)
    await this.#image.file.read(offset, bytes, plainIo)
    return bytes
  }
}
