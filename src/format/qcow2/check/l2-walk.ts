/**
 * What one L2 table refers to: counted, and its broken entries told or mended. Each table is walked
 * once, however many L1 tables lead to it.
 */
import { viewOf } from '../../../bytes/view.ts'
import { hex64 } from '../faults.ts'
import {
  clusterOf,
  highOf,
  isCopied,
  kind,
  type L2Layout,
  lowOf,
  offsetOf,
  setEntry,
} from '../l2-table.ts'
import type { Counts } from './counts.ts'
import { EntryRuns } from './entry-runs.ts'
import { judgeEntry } from './l2-judgement.ts'
import { mendL2Entry, mendMisled, mendPlace, mendSubclusters, unalignedL2Table } from './mend.ts'
import { ReadAhead } from './read-ahead.ts'
import type { CheckedImage } from './references.ts'
import { Findings, type Report, type Room } from './report.ts'
import type { Tally } from './tally.ts'

/** Bits of an L2 entry that are not set for plain data: compressed, and the reserved ones. */
const reservedHigh = 0x7f000000

/** An L2 table and those who share it. */
export interface SharedTable {
  times: number
  /** How many of them are entries of the active L1 table. */
  active: number
  /** The first entry that led to it. */
  readonly l1Index: number
  /** Entries in use, and how many of them are broken. */
  used: number
  broken: number
  /** What is wrong with it, if anything is. */
  findings?: Findings
  /** Flags in it that do not agree with the refcounts. */
  copiedFaults?: Findings
}

export interface WalkOptions {
  /** Of all L2 tables, in the order in which they will be walked. */
  readonly offsets: readonly number[]
  /** Refcounts as the image has them. */
  readonly stored: Counts
  readonly mends: boolean
  readonly room: Room
}

export class L2Walk {
  readonly #image: CheckedImage
  readonly #layout: L2Layout
  readonly #tally: Tally
  /** For its statistics. */
  readonly #report: Report
  readonly #stored: Counts
  readonly #mends: boolean
  readonly #room: Room
  /** Of the table that is looked at. */
  #findings: Findings
  #copiedFaults: Findings
  readonly #runs: EntryRuns
  readonly #tables: ReadAhead

  constructor(
    image: CheckedImage,
    layout: L2Layout,
    tally: Tally,
    report: Report,
    { offsets, stored, mends, room }: WalkOptions,
  ) {
    this.#image = image
    this.#layout = layout
    this.#tally = tally
    this.#report = report
    this.#stored = stored
    this.#mends = mends
    this.#room = room
    this.#findings = new Findings(room)
    this.#copiedFaults = new Findings(room)
    // What is mended in one table may lie in another: then each is read when its turn comes.
    const early = mends ? [] : offsets.filter((offset) => offset < image.file.size)
    this.#tables = new ReadAhead(image.file, early)
    this.#runs = new EntryRuns(layout.clusterSize, layout.clusterSize)
  }

  async walk(offset: number, shared: SharedTable): Promise<void> {
    await this.#walk(offset, shared)
    if (!this.#findings.nothing) {
      shared.findings = this.#findings
      this.#findings = new Findings(this.#room)
    }
    if (!this.#copiedFaults.nothing) {
      shared.copiedFaults = this.#copiedFaults
      this.#copiedFaults = new Findings(this.#room)
    }
  }

  async #walk(offset: number, shared: SharedTable): Promise<void> {
    const { clusterSize, coverage, entries, extended, external } = this.#layout
    this.#tally.region(offset, clusterSize, shared.times, this.#findings)
    if (offset % clusterSize !== 0) this.#findings.corruption(unalignedL2Table(offset))
    // There reads as zeroes what is not there.
    if (offset >= this.#image.file.size) return
    const bytes = this.#runs.table
    await this.#tables.read(offset, bytes)
    const view = viewOf(bytes)
    let mended = false
    let expected = 0
    for (let index = 0; index < entries; index++) {
      const word = this.#layout.wordOf(index)
      const high = highOf(view, word)
      const low = lowOf(view, word)
      if (high === 0 && low === 0 && !extended) continue
      const run = extended || external ? 0 : this.#soundRun(index, high, low)
      if (run > 0) {
        shared.used += run
        expected = this.#countRun(high, low, run, shared, expected)
        index += run - 1
        continue
      }
      shared.used++
      // Where the cluster lies in a data file.
      const own = shared.l1Index * coverage + index * clusterSize
      if (!this.#isBroken(view, index, high, low, own)) {
        expected = this.#countEntry(high, low, shared, expected)
        continue
      }
      shared.broken++
      if (this.#mends) {
        this.#mend(view, index, own)
        mended = true
        expected = this.#countEntry(highOf(view, word), lowOf(view, word), shared, expected)
      } else {
        const judged = judgeEntry(view, index, this.#layout, own)
        for (const message of judged.messages) this.#findings.corruption(message)
        this.#tally.incomplete ||= judged.lost
        expected = this.#countEntry(judged.high, judged.low, shared, expected, hex64(high, low))
      }
    }
    if (mended) await this.#image.file.write(offset, bytes)
  }

  #isBroken(view: DataView, index: number, high: number, low: number, own: number): boolean {
    return (
      this.#layout.faultAt(view, index) !== undefined ||
      isMarkedCompressed(this.#layout, high, low) ||
      this.#isOutside(high, low) ||
      this.#isMisled(high, low) ||
      this.#isElsewhere(high, low, own)
    )
  }

  /**
   * How many entries from `index` on are plain data in consecutive clusters that have one reference
   * each: nearly all of most images, so they are gone through in one go.
   */
  #soundRun(index: number, high: number, low: number): number {
    const { clusterSize, entries } = this.#layout
    const first = offsetOf(high, low) / clusterSize
    if (!isCopied(high) || (high & reservedHigh) !== 0 || !Number.isInteger(first)) return 0
    const limit = Math.min(entries - index, this.#tally.clusters - first)
    if (first === 0 || limit <= 0) return 0
    const run = this.#runs.length(index, limit, high, low)
    if (this.#mends && this.#tally.isFixed(first * clusterSize, run * clusterSize)) return 0
    return this.#stored.areOne(first, run) ? run : 0
  }

  /** Counts a run that `#soundRun` found. */
  #countRun(high: number, low: number, run: number, shared: SharedTable, expected: number): number {
    const { clusterSize } = this.#layout
    const offset = offsetOf(high, low)
    this.#tally.count(offset / clusterSize, run, shared.times, this.#findings)
    this.#report.allocatedClusters += run * shared.active
    if (expected !== 0 && offset !== expected) this.#report.fragmentedClusters += shared.active
    return offset + run * clusterSize
  }

  /** Counts what an entry refers to; `shown`: as it stands there. Returns where a next, contiguous cluster would lie. */
  #countEntry(
    high: number,
    low: number,
    shared: SharedTable,
    expected: number,
    shown?: string,
  ): number {
    const { clusterSize } = this.#layout
    const entryKind = this.#layout.kindOf(high, low)
    if (entryKind === kind.unallocated || entryKind === kind.zeroPlain) return expected
    if (entryKind === kind.compressed) {
      this.#countStatistics(shared, true, true)
      const length = this.#layout.compressedLength(high, low)
      const exact = this.#layout.exactCompressedOffset(high, low)
      this.#tally.region(Number(exact), length, shared.times, this.#findings, exact)
      return expected
    }
    const offset = clusterOf(high, low)
    this.#countStatistics(shared, false, expected !== 0 && offset !== expected)
    // What lies in a data file is not counted.
    if (!this.#layout.external) {
      this.#tally.region(offset, clusterSize, shared.times, this.#findings)
    }
    if (shared.active > 0) {
      this.#checkFlag(high, low, Math.floor(offset / clusterSize), shown)
    }
    return offset + clusterSize
  }

  #countStatistics({ active }: SharedTable, compressed: boolean, fragmented: boolean): void {
    this.#report.allocatedClusters += active
    if (compressed) this.#report.compressedClusters += active
    if (fragmented) this.#report.fragmentedClusters += active
  }

  #checkFlag(high: number, low: number, cluster: number, shown = hex64(high, low)): void {
    const refcount = this.#layout.external ? 1 : this.#stored.get(cluster)
    if (isCopied(high) === (refcount === 1)) return
    this.#copiedFaults.corruption(
      `OFLAG_COPIED data cluster: l2_entry=${shown} refcount=${refcount}`,
    )
  }

  #isOutside(high: number, low: number): boolean {
    if (this.#layout.kindOf(high, low) === kind.compressed) {
      return this.#layout.compressedOffset(high, low) >= this.#image.file.size
    }
    // A data file may be shorter than the disk: the rest reads as zeroes.
    if (this.#layout.external) return false
    return clusterOf(high, low) >= this.#tally.clusters * this.#layout.clusterSize
  }

  /** When mending: whether an entry refers to what is the image's own. */
  #isMisled(high: number, low: number): boolean {
    const { clusterSize, external } = this.#layout
    // What lies in a data file is in nobody's way: its first cluster is where the header is here.
    if (external) return false
    const entryKind = this.#layout.kindOf(high, low)
    if (!this.#mends || entryKind === kind.unallocated || entryKind === kind.zeroPlain) {
      return false
    }
    const compressed = entryKind === kind.compressed
    const offset = compressed ? this.#layout.compressedOffset(high, low) : clusterOf(high, low)
    const length = compressed ? this.#layout.compressedLength(high, low) : clusterSize
    return this.#tally.isFixed(offset, length)
  }

  /** Whether an entry does not name the one place in a data file that is the cluster's. */
  #isElsewhere(high: number, low: number, own: number): boolean {
    if (!this.#layout.external) return false
    const entryKind = this.#layout.kindOf(high, low)
    if (entryKind !== kind.data && entryKind !== kind.zeroAllocated) return false
    return clusterOf(high, low) !== own
  }

  /** Mends a broken entry in `view`. `own`: where the cluster lies on the disk. */
  #mend(view: DataView, index: number, own: number): void {
    const word = this.#layout.wordOf(index)
    const high = highOf(view, word)
    const low = lowOf(view, word)
    const sound =
      this.#layout.faultOf(high, low) === undefined &&
      !isMarkedCompressed(this.#layout, high, low) &&
      !this.#isOutside(high, low)
    if (this.#layout.external && (!sound || this.#isElsewhere(high, low, own))) {
      const { also, message } = mendPlace(view, index, this.#layout, own)
      if (also !== undefined) this.#findings.say(`ERROR ${also}`)
      this.#findings.corruption(message, true)
      return
    }
    if (sound && !this.#isMisled(high, low)) {
      this.#findings.corruption(mendSubclusters(view, index, this.#layout), true)
      return
    }
    const mended = sound
      ? mendMisled(high, low, this.#layout)
      : mendL2Entry(index, high, low, this.#layout, this.#image.file.size)
    this.#tally.incomplete ||= mended.lost
    if (mended.also !== undefined) this.#findings.say(`ERROR ${mended.also}`)
    if (mended.message !== undefined) this.#findings.corruption(mended.message, true)
    setEntry(view, word, mended.high, mended.low)
    if (this.#layout.faultAt(view, index) !== undefined) mendSubclusters(view, index, this.#layout)
  }
}

function isMarkedCompressed(layout: L2Layout, high: number, low: number): boolean {
  return isCopied(high) && layout.kindOf(high, low) === kind.compressed
}
