/**
 * Who refers to which cluster: everything that the header leads to, counted. An L2 table that
 * several L1 tables share is read once and counted as often, so a hostile image cannot make the
 * walk longer than its tables are.
 */
import { plainIo } from '../../../block/layer.ts'
import { alignDown } from '../../../bytes/range.ts'
import { viewOf } from '../../../bytes/view.ts'
import { BlockError } from '../../../errors.ts'
import { readPlace } from '../encryption/place.ts'
import { type Faults, hex64 } from '../faults.ts'
import type { Header } from '../header.ts'
import type { HeaderState } from '../header-state.ts'
import type { ImageFile } from '../image-file.ts'
import {
  clusterOf,
  countRun,
  entrySize,
  highOf,
  isCopied,
  kind,
  L2Layout,
  lowOf,
  offsetOf,
  setEntry,
} from '../l2-table.ts'
import { scanSnapshotTable } from '../snapshot-table.ts'
import { countBitmaps, mendBitmaps } from './bitmaps.ts'
import { Counts } from './counts.ts'
import {
  mendL1Entry,
  mendL2Entry,
  mendMisled,
  mendMisledL1,
  mendPlace,
  mendSubclusters,
} from './mend.ts'
import { maxMessages, type Report } from './report.ts'

export interface CheckedImage {
  readonly file: ImageFile
  readonly header: Header
  readonly faults: Faults
}

export interface ReferenceOptions {
  /** Refcounts as the image has them, which the flags of entries are held against. */
  readonly stored: Counts
  /** Entries that contradict the format are made harmless; then the header may have to change. */
  readonly mend: HeaderState | undefined
  /** Where refcount blocks lie. */
  readonly blocks: Iterable<number>
  /** What was found without mending anything: tells tables from what is taken for one by mistake. */
  readonly before?: References
  /** Bitmaps that cannot be understood are passed over. */
  readonly anyBitmaps?: boolean
}

/** Bits of an L2 entry that are not set for plain data: compressed, and the reserved ones. */
const reservedHigh = 0x7f000000

/** An L2 table and those who share it. */
interface SharedTable {
  times: number
  /** The active disk is among them. */
  active: boolean
  /** The first entry that led to it. */
  readonly l1Index: number
  /** Entries in use, and how many of them are broken. */
  used: number
  broken: number
}

export class References {
  readonly counts = new Counts()
  /**
   * Something that refers to clusters could not be read or counted. What seems to be a leak may
   * then be in use.
   */
  incomplete = false
  /** Flags that do not agree with the refcounts; they are reported after the refcounts are. */
  readonly copiedFaults: string[] = []
  /** More of them, which are not told one by one. */
  furtherCopiedFaults = 0
  readonly #image: CheckedImage
  readonly #report: Report
  readonly #options: ReferenceOptions
  readonly #layout: L2Layout
  /** Clusters of the file, the last one cut off maybe. */
  #clusters: number
  /** The L2 table that is looked at: one after the other is read into it. */
  readonly #table: Uint8Array
  readonly #tables = new Map<number, SharedTable>()
  /** L2 tables that each L1 table leads to, by its place, and how many of its entries are broken. */
  readonly #l1Tables = new Map<number, { readonly tables: number[]; faults: number }>()
  /**
   * Clusters of the header and of the active L1 table: what an entry says to be there is surely
   * not the guest's. The places of other tables may be what is wrong, and refcounts can be written
   * anew elsewhere.
   */
  readonly #fixed = new Counts()

  private constructor(image: CheckedImage, report: Report, options: ReferenceOptions) {
    this.#image = image
    this.#report = report
    this.#options = options
    this.#layout = new L2Layout(image.header)
    this.#clusters = Math.ceil(image.file.end / this.#layout.clusterSize)
    this.#table = new Uint8Array(this.#layout.clusterSize)
  }

  static async count(
    image: CheckedImage,
    report: Report,
    options: ReferenceOptions,
  ): Promise<References> {
    const references = new References(image, report, options)
    const { header } = image
    const { clusterSize } = references.#layout
    references.#fix(0, clusterSize)
    references.#fix(header.l1TableOffset, header.l1Size * entrySize)
    references.region(0, clusterSize, 1)
    await references.#l1Table(header.l1TableOffset, header.l1Size, 1, true)
    await references.#snapshots()
    for (const [offset, table] of references.#tables) await references.#l2Table(offset, table)
    const place = readPlace(header, image.faults)
    if (place) references.region(place.offset, place.length, 1)
    const tableBytes = header.refcountTableClusters * clusterSize
    references.region(header.refcountTableOffset, tableBytes, 1)
    await references.#bitmaps()
    return references
  }

  get #mends(): boolean {
    return this.#options.mend !== undefined
  }

  /** Counts `times` references to each cluster that a range of the file touches. */
  region(offset: number, length: number, times: number): void {
    if (length === 0) return
    const { clusterSize } = this.#layout
    const first = Math.floor(offset / clusterSize)
    const end = Math.ceil((offset + length) / clusterSize)
    if (end <= this.#clusters) {
      this.counts.addRange(first, end - first, times)
      return
    }
    this.incomplete = true
    this.#report.corruptions++
    this.#report.say(
      'ERROR: counting reference for region exceeding the end of the file by one cluster or more: ' +
        `offset 0x${offset.toString(16)} size 0x${length.toString(16)}`,
    )
  }

  #fix(offset: number, length: number): void {
    if (length === 0) return
    const { clusterSize } = this.#layout
    const first = Math.floor(offset / clusterSize)
    const end = Math.min(this.#clusters, Math.ceil((offset + length) / clusterSize))
    if (end > first) this.#fixed.addRange(first, end - first, 1)
  }

  async #snapshots(): Promise<void> {
    const { file, header } = this.#image
    if (header.nbSnapshots === 0) return
    const { snapshots, length, faults } = await scanSnapshotTable(file, header)
    for (const { message, harmless } of faults) {
      this.#report.corruption(message)
      if (!harmless) this.incomplete = true
    }
    // Tables at the same place are read once.
    const places = new Map<string, { offset: number; size: number; times: number }>()
    for (const { l1TableOffset: offset, l1Size: size } of snapshots) {
      const key = `${offset} ${size}`
      const place = places.get(key) ?? { offset, size, times: 0 }
      place.times++
      places.set(key, place)
    }
    for (const { offset, size, times } of places.values()) {
      await this.#l1Table(offset, size, times, false)
    }
    this.region(header.snapshotsOffset, length, 1)
  }

  /** Counts an L1 table and notes the L2 tables that it points to. */
  async #l1Table(offset: number, entries: number, times: number, active: boolean): Promise<void> {
    this.region(offset, entries * entrySize, times)
    const l1 = { tables: [] as number[], faults: 0 }
    this.#l1Tables.set(offset, l1)
    const bytes = new Uint8Array(entries * entrySize)
    await this.#image.file.read(offset, bytes, plainIo)
    const view = viewOf(bytes)
    for (let index = 0; index < entries; index++) {
      const high = highOf(view, index)
      const low = lowOf(view, index)
      if (high === 0 && low === 0) continue
      const mended = this.#l1Fault(high, low)
      if (mended) l1.faults++
      else l1.tables.push(offsetOf(high, low))
      if (mended && this.#options.mend) {
        await this.#image.file.write(offset + index * entrySize, mended)
      }
      // Marks that must not be there do not keep anybody from following the entry.
      const own = mended ? viewOf(mended) : undefined
      const [ownHigh, ownLow] = own ? [highOf(own, 0), lowOf(own, 0)] : [high, low]
      this.#noteTable(index, ownHigh, ownLow, times, active)
    }
  }

  /** Reports a broken L1 entry; what to put in its place, or undefined when it is sound. */
  #l1Fault(high: number, low: number): Uint8Array | undefined {
    const { clusterSize } = this.#layout
    const found =
      mendL1Entry(high, low, clusterSize, this.#clusters) ??
      (this.#mends && this.#isMisledL1(offsetOf(high, low)) ? mendMisledL1(high, low) : undefined)
    if (!found) return undefined
    this.incomplete ||= found.lost
    this.#report.corruption(found.message, this.#mends)
    return found.entry
  }

  #isMisledL1(offset: number): boolean {
    if (this.#fixed.get(offset / this.#layout.clusterSize) > 0) return true
    return this.#options.before?.isMistaken(offset) ?? false
  }

  /** Whether what is taken for an L2 table is something else: it is used otherwise, and looks so. */
  isMistaken(offset: number): boolean {
    const table = this.#tables.get(offset)
    if (!table || table.broken * 2 <= table.used) return false
    return this.#isShared(offset, this.#layout.clusterSize, table.times)
  }

  /** The same for the L1 table of a snapshot; `times`: how many snapshots have it. */
  isMistakenL1(offset: number, length: number, times: number): boolean {
    const l1 = this.#l1Tables.get(offset)
    if (!l1 || !this.#isShared(offset, length, times)) return false
    return l1.faults > 0 || l1.tables.some((table) => this.isMistaken(table))
  }

  /** Whether any cluster of a range has more references than `times`. */
  #isShared(offset: number, length: number, times: number): boolean {
    const { clusterSize } = this.#layout
    const end = Math.min(this.#clusters, Math.ceil((offset + length) / clusterSize))
    for (let cluster = Math.floor(offset / clusterSize); cluster < end; cluster++) {
      if (this.counts.get(cluster) > times) return true
    }
    return false
  }

  #noteTable(index: number, high: number, low: number, times: number, active: boolean): void {
    const offset = offsetOf(high, low)
    if (offset === 0) return
    const table = this.#tables.get(offset) ?? {
      times: 0,
      active: false,
      l1Index: index,
      used: 0,
      broken: 0,
    }
    table.times += times
    table.active ||= active
    this.#tables.set(offset, table)
    if (!active) return
    const refcount = this.#options.stored.get(offset / this.#layout.clusterSize)
    if (isCopied(high) !== (refcount === 1)) {
      this.#copiedFault(
        () =>
          `OFLAG_COPIED L2 cluster: l1_index=${index} l1_entry=${hex64(high, low)} refcount=${refcount}`,
      )
    }
  }

  async #l2Table(offset: number, shared: SharedTable): Promise<void> {
    const { clusterSize, entries, extended, external } = this.#layout
    this.region(offset, clusterSize, shared.times)
    const bytes = this.#table
    await this.#image.file.read(offset, bytes, plainIo)
    const view = viewOf(bytes)
    let mended = false
    let expected = 0
    // Where its clusters lie in a data file.
    const own = shared.l1Index * this.#layout.coverage
    for (let index = 0; index < entries; index++) {
      const word = this.#layout.wordOf(index)
      let high = highOf(view, word)
      let low = lowOf(view, word)
      if (high === 0 && low === 0 && !extended) continue
      const run = extended || external ? 0 : this.#soundRun(view, index, high, low)
      if (run > 0) {
        shared.used += run
        expected = this.#countRun(high, low, run, shared, expected)
        index += run - 1
        continue
      }
      shared.used++
      if (
        this.#layout.faultAt(view, index) !== undefined ||
        this.#isOutside(high, low) ||
        this.#isMisled(high, low) ||
        this.#isElsewhere(high, low, own + index * clusterSize)
      ) {
        shared.broken++
        if (this.#l2Fault(view, index, own + index * clusterSize)) mended = true
        high = highOf(view, word)
        low = lowOf(view, word)
        if (!this.#options.mend) {
          expected = this.#countBroken(high, low, shared, expected)
          continue
        }
      }
      expected = this.#countEntry(high, low, shared, expected)
    }
    if (mended) await this.#image.file.write(offset, bytes)
  }

  /**
   * How many entries from `index` on are plain data in consecutive clusters that have one reference
   * each: nearly all of most images, so they are gone through in one go.
   */
  #soundRun(view: DataView, index: number, high: number, low: number): number {
    const { clusterSize, entries } = this.#layout
    const first = offsetOf(high, low) / clusterSize
    if (!isCopied(high) || (high & reservedHigh) !== 0 || !Number.isInteger(first)) return 0
    const limit = Math.min(entries - index, this.#clusters - first)
    if (first === 0 || limit <= 0) return 0
    const run = countRun(view, index, limit, high, low, clusterSize)
    if (this.#options.mend && !this.#fixed.areZero(first, run)) return 0
    return this.#options.stored.areOne(first, run) ? run : 0
  }

  /** Counts a run that `#soundRun` found. */
  #countRun(high: number, low: number, run: number, shared: SharedTable, expected: number): number {
    const { clusterSize } = this.#layout
    const offset = offsetOf(high, low)
    this.counts.addRange(offset / clusterSize, run, shared.times)
    if (shared.active) {
      this.#report.allocatedClusters += run
      if (expected !== 0 && offset !== expected) this.#report.fragmentedClusters++
    }
    return offset + run * clusterSize
  }

  /** Counts what a sound entry refers to. Returns where a next, contiguous cluster would lie. */
  #countEntry(high: number, low: number, shared: SharedTable, expected: number): number {
    const { clusterSize } = this.#layout
    const entryKind = this.#layout.kindOf(high, low)
    if (entryKind === kind.unallocated || entryKind === kind.zeroPlain) return expected
    if (entryKind === kind.compressed) {
      const start = this.#layout.compressedOffset(high, low)
      this.region(start, this.#layout.compressedLength(high, low), shared.times)
      if (shared.active) this.#countStatistics(true, true)
      return expected
    }
    const offset = clusterOf(high, low)
    const cluster = offset / clusterSize
    // What lies in a data file is not counted.
    if (!this.#layout.external) this.counts.add(cluster, shared.times)
    if (!shared.active) return expected
    this.#countStatistics(false, expected !== 0 && offset !== expected)
    this.#checkFlag(high, low, cluster)
    return offset + clusterSize
  }

  #countStatistics(compressed: boolean, fragmented: boolean): void {
    this.#report.allocatedClusters++
    if (compressed) this.#report.compressedClusters++
    if (fragmented) this.#report.fragmentedClusters++
  }

  /** An entry that stays broken: whatever it may refer to counts as in use. */
  #countBroken(high: number, low: number, shared: SharedTable, expected: number): number {
    const { clusterSize } = this.#layout
    const entryKind = this.#layout.kindOf(high, low)
    if (entryKind === kind.unallocated) return expected
    const compressed = entryKind === kind.compressed
    const offset = compressed
      ? this.#layout.compressedOffset(high, low)
      : offsetOf(high, low - (low % 512))
    const fragmented = !compressed && expected !== 0 && offset !== expected
    if (shared.active) this.#countStatistics(compressed, fragmented)
    const next = compressed ? expected : offset + clusterSize
    if (offset === 0 || this.#layout.external) return next
    this.region(offset, compressed ? 1 : clusterSize, shared.times)
    if (!compressed && shared.active) this.#checkFlag(high, low, Math.floor(offset / clusterSize))
    return next
  }

  #checkFlag(high: number, low: number, cluster: number): void {
    const refcount = this.#layout.external ? 1 : this.#options.stored.get(cluster)
    if (isCopied(high) === (refcount === 1)) return
    this.#copiedFault(
      () => `OFLAG_COPIED data cluster: l2_entry=${hex64(high, low)} refcount=${refcount}`,
    )
  }

  #copiedFault(text: () => string): void {
    if (this.copiedFaults.length < maxMessages) this.copiedFaults.push(text())
    else this.furtherCopiedFaults++
  }

  #isOutside(high: number, low: number): boolean {
    if (this.#layout.kindOf(high, low) === kind.compressed) {
      return this.#layout.compressedOffset(high, low) >= this.#image.file.size
    }
    // A data file may be shorter than the disk: the rest reads as zeroes.
    if (this.#layout.external) return false
    return clusterOf(high, low) >= this.#clusters * this.#layout.clusterSize
  }

  /** When mending: whether an entry refers to what is the image's own. */
  #isMisled(high: number, low: number): boolean {
    const { clusterSize, external } = this.#layout
    // What lies in a data file is in nobody's way: its first cluster is where the header is here.
    if (external) return false
    const entryKind = this.#layout.kindOf(high, low)
    if (!this.#options.mend || entryKind === kind.unallocated || entryKind === kind.zeroPlain) {
      return false
    }
    const compressed = entryKind === kind.compressed
    const offset = compressed ? this.#layout.compressedOffset(high, low) : clusterOf(high, low)
    const length = compressed ? this.#layout.compressedLength(high, low) : clusterSize
    const first = Math.floor(offset / clusterSize)
    const end = Math.min(this.#clusters, Math.ceil((offset + length) / clusterSize))
    return !this.#fixed.areZero(first, end - first)
  }

  /** Whether an entry does not name the one place in a data file that is the cluster's. */
  #isElsewhere(high: number, low: number, own: number): boolean {
    if (!this.#layout.external) return false
    const entryKind = this.#layout.kindOf(high, low)
    if (entryKind !== kind.data && entryKind !== kind.zeroAllocated) return false
    return clusterOf(high, low) !== own
  }

  /**
   * Reports a broken entry and, if that is wanted, mends it in `view`. `own`: where the cluster lies
   * on the disk.
   */
  #l2Fault(view: DataView, index: number, own: number): boolean {
    const mend = this.#mends
    const word = this.#layout.wordOf(index)
    const high = highOf(view, word)
    const low = lowOf(view, word)
    const sound = this.#layout.faultOf(high, low) === undefined && !this.#isOutside(high, low)
    if (this.#layout.external && (!sound || this.#isElsewhere(high, low, own))) {
      const { entryBytes } = this.#layout
      const entry = this.#table.subarray(index * entryBytes, (index + 1) * entryBytes)
      const former = entry.slice()
      this.#report.corruption(mendPlace(view, index, this.#layout, own), mend)
      if (!mend) entry.set(former)
      return mend
    }
    if (sound && !this.#isMisled(high, low)) {
      this.#report.corruption(mendSubclusters(view, index, this.#layout), mend)
      return mend
    }
    const mended = sound
      ? mendMisled(high, low, this.#layout)
      : mendL2Entry(index, high, low, this.#layout, this.#image.file.size)
    this.incomplete ||= mended.lost
    // What lies behind the end of the file is reported when it is counted.
    if (mended.message !== undefined && (mend || !mended.outside)) {
      this.#report.corruption(mended.message, mend)
    }
    if (!mend) return false
    setEntry(view, word, mended.high, mended.low)
    if (this.#layout.faultAt(view, index) !== undefined) mendSubclusters(view, index, this.#layout)
    return true
  }

  async #bitmaps(): Promise<void> {
    const { file } = this.#image
    const check = {
      ...this.#image,
      report: this.#report,
      region: (offset: number, length: number) => {
        // A repair makes the file longer.
        this.#clusters = Math.ceil(file.end / this.#layout.clusterSize)
        this.region(offset, length, 1)
      },
    }
    const { mend, blocks, anyBitmaps } = this.#options
    if (!mend) {
      await countBitmaps(check).catch((error) => {
        if (!anyBitmaps || !(error instanceof BlockError)) throw error
      })
      return
    }
    const { clusterSize } = this.#layout
    const blockPlaces = new Set(blocks)
    await mendBitmaps(check, mend, (offset, length) => {
      if (this.#isShared(offset, length, 0)) return true
      for (let at = alignDown(offset, clusterSize); at < offset + length; at += clusterSize) {
        if (blockPlaces.has(at)) return true
      }
      return false
    })
  }
}
