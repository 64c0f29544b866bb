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
import type { ImageFile } from '../image-file.ts'
import { entrySize, highOf, isCopied, L2Layout, lowOf, offsetOf } from '../l2-table.ts'
import { type EntryFault, type Snapshot, scanSnapshotTable } from '../snapshot-table.ts'
import { countBitmaps, mendBitmaps } from './bitmaps.ts'
import type { Counts } from './counts.ts'
import { L2Walk, type SharedTable } from './l2-walk.ts'
import { l1Reserved, type MendedL1, mendL1Entry, mendMisledL1, reservedL1 } from './mend.ts'
import type { ReferenceOptions } from './reference-options.ts'
import { Findings, maxMessages, type Report, type Room } from './report.ts'
import { Tally } from './tally.ts'

export interface CheckedImage {
  readonly file: ImageFile
  readonly header: Header
  readonly faults: Faults
}

/** An L1 table as it was found. */
interface L1Walk {
  /** The L2 tables that it leads to, in order. */
  readonly tables: number[]
  /** How many of its entries are broken. */
  faults: number
  /** What is wrong with it, by the number of L2 tables that come before. */
  readonly findings: Map<number, Findings>
  /** Flags that do not agree with the refcounts, by the number of the table in `tables`. */
  readonly copiedFaults: Map<number, Findings>
}

export class References {
  /** Flags that do not agree with the refcounts; they are reported after the refcounts are. */
  readonly copiedFaults: Findings
  readonly #image: CheckedImage
  readonly #report: Report
  readonly #options: ReferenceOptions
  readonly #layout: L2Layout
  readonly #tally: Tally
  readonly #room: Room = { left: maxMessages }
  readonly #tables = new Map<number, SharedTable>()
  /** By place. */
  readonly #l1Tables = new Map<number, L1Walk>()

  private constructor(image: CheckedImage, report: Report, options: ReferenceOptions) {
    this.#image = image
    this.#report = report
    this.#options = options
    this.#layout = new L2Layout(image.header)
    const { clusterSize } = this.#layout
    const clusters = Math.ceil(image.file.end / clusterSize)
    this.#tally = new Tally(clusters, clusterSize, options.most ?? Number.POSITIVE_INFINITY)
    this.copiedFaults = new Findings(this.#room)
  }

  static async count(
    image: CheckedImage,
    report: Report,
    options: ReferenceOptions,
  ): Promise<References> {
    const references = new References(image, report, options)
    const { header } = image
    const { clusterSize } = references.#layout
    references.#tally.fix(header.l1TableOffset, header.l1Size)
    references.region(0, clusterSize, 1)
    await references.#allTables()
    const place = readPlace(header, image.faults)
    if (place) references.region(place.offset, place.length, 1)
    const tableBytes = header.refcountTableClusters * clusterSize
    references.region(header.refcountTableOffset, tableBytes, 1)
    await references.#bitmaps()
    if (references.#tellsAsFound) references.#tally.incomplete ||= references.isMisledActiveL1()
    return references
  }

  get counts(): Counts {
    return this.#tally.counts
  }

  /** Something could not be read or counted: what seems to be a leak may be in use. */
  get incomplete(): boolean {
    return this.#tally.incomplete
  }

  /** What seems to leak is left alone, unless everything is repaired. */
  doubt(): void {
    this.#tally.incomplete = true
  }

  get #mends(): boolean {
    return this.#options.mend !== undefined
  }

  get #tellsAsFound(): boolean {
    return this.#options.most !== undefined
  }

  /** Counts `times` references to each cluster that a range of the file touches. */
  region(offset: number, length: number, times: number): void {
    this.#tally.region(offset, length, times, this.#report)
  }

  /** L1 tables first, then what they lead to; it is told in the order in which qemu-img walks. */
  async #allTables(): Promise<void> {
    const { file, header } = this.#image
    const active = await this.#l1Table(header.l1TableOffset, header.l1Size, 1, true)
    const met = [active]
    let tableLength = 0
    if (header.nbSnapshots > 0) {
      const { snapshots, length, faults } = await scanSnapshotTable(file, header, {
        asFound: this.#tellsAsFound,
      })
      for (const { message, harmless, inWalk } of faults) {
        if (!inWalk) this.#report.corruption(message)
        if (!harmless) this.#tally.incomplete = true
      }
      const known = (await this.#snapshotTables(snapshots)).values()
      const broken = new Map(faults.map((fault) => [fault.index, fault]))
      for (let index = 0; index < header.nbSnapshots; index++) {
        const fault = broken.get(index)
        const l1 = fault && !fault.harmless ? this.#lostTable(fault) : known.next().value
        if (l1) met.push(l1)
      }
      tableLength = length
    }
    const { stored } = this.#options
    const walk = new L2Walk(this.#image, this.#layout, this.#tally, this.#report, {
      offsets: [...this.#tables.keys()],
      stored,
      mends: this.#mends,
      room: this.#room,
    })
    for (const [offset, table] of this.#tables) await walk.walk(offset, table)
    this.#tell(met)
    this.#tellCopied(active)
    this.region(header.snapshotsOffset, tableLength, 1)
  }

  /** Stands for the L1 table of a snapshot that cannot be read, and says why. */
  #lostTable({ message, inWalk }: EntryFault): L1Walk | undefined {
    if (!inWalk) return undefined
    const findings = new Findings(this.#room)
    findings.corruption(message)
    return { tables: [], faults: 1, findings: new Map([[0, findings]]), copiedFaults: new Map() }
  }

  /** The L1 table of each snapshot; tables at the same place are read once. */
  async #snapshotTables(snapshots: readonly Snapshot[]): Promise<L1Walk[]> {
    const keyOf = ({ l1TableOffset, l1Size }: Snapshot) => `${l1TableOffset} ${l1Size}`
    const times = new Map<string, number>()
    for (const snapshot of snapshots) {
      times.set(keyOf(snapshot), (times.get(keyOf(snapshot)) ?? 0) + 1)
    }
    const read = new Map<string, L1Walk>()
    const met: L1Walk[] = []
    for (const snapshot of snapshots) {
      const key = keyOf(snapshot)
      const known = read.get(key)
      const { l1TableOffset: offset, l1Size } = snapshot
      const l1 = known ?? (await this.#l1Table(offset, l1Size, times.get(key)!, false))
      read.set(key, l1)
      met.push(l1)
    }
    return met
  }

  /** Says what is wrong with tables; `met`: L1 tables in the order in which they are walked. */
  #tell(met: readonly L1Walk[]): void {
    const mended = new Set<number>()
    const all = new Map<L1Walk, readonly Findings[]>()
    for (const l1 of met) {
      const known = all.get(l1)
      // What is mended is wrong only once.
      if (known && this.#mends) continue
      const findings = known ?? this.#findingsOf(l1, mended)
      all.set(l1, findings)
      for (const each of findings) this.#report.tell(each)
    }
  }

  /** `mended`: L2 tables that were mended when they were met first; more of them afterwards. */
  #findingsOf(l1: L1Walk, mended: Set<number>): Findings[] {
    const found: Findings[] = []
    for (let at = 0; at <= l1.tables.length; at++) {
      const own = l1.findings.get(at)
      if (own) found.push(own)
      const offset = l1.tables[at]
      const table = this.#tables.get(offset)?.findings
      if (!table || mended.has(offset)) continue
      found.push(table)
      if (this.#mends) mended.add(offset)
    }
    return found
  }

  #tellCopied(active: L1Walk): void {
    for (const [at, offset] of active.tables.entries()) {
      const own = active.copiedFaults.get(at)
      if (own) this.copiedFaults.tell(own)
      const table = offset === 0 ? undefined : this.#tables.get(offset)?.copiedFaults
      if (table) this.copiedFaults.tell(table)
    }
  }

  /** Counts an L1 table and notes the L2 tables that it points to. */
  async #l1Table(offset: number, entries: number, times: number, active: boolean): Promise<L1Walk> {
    const l1: L1Walk = { tables: [], faults: 0, findings: new Map(), copiedFaults: new Map() }
    const first = new Findings(this.#room)
    this.#tally.region(offset, entries * entrySize, times, first)
    if (!first.nothing) l1.findings.set(0, first)
    this.#l1Tables.set(offset, l1)
    const bytes = new Uint8Array(entries * entrySize)
    await this.#image.file.read(offset, bytes, plainIo)
    const view = viewOf(bytes)
    for (let index = 0; index < entries; index++) {
      let high = highOf(view, index)
      let low = lowOf(view, index)
      if (high === 0 && low === 0) continue
      const shown = hex64(high, low)
      const found = this.#l1Fault(high, low)
      if (found) {
        l1.faults++
        const findings = () => this.#findingsAt(l1.findings, l1.tables.length)
        if (this.#tellsAsFound) {
          const reserved = (high & l1Reserved) !== 0 || low % 512 !== 0
          if (reserved) findings().corruption(reservedL1(high, low))
          low -= low % 512
        } else {
          findings().corruption(found.message, this.#mends)
          // Marks that must not be there do not keep anybody from following the entry.
          high = highOf(viewOf(found.entry), 0)
          low = lowOf(viewOf(found.entry), 0)
        }
        if (this.#mends) await this.#image.file.write(offset + index * entrySize, found.entry)
      }
      this.#noteTable(l1, index, high, low, times, active ? shown : undefined)
    }
    return l1
  }

  #findingsAt(places: Map<number, Findings>, at: number): Findings {
    const findings = places.get(at) ?? new Findings(this.#room)
    places.set(at, findings)
    return findings
  }

  /** What is wrong with an L1 entry, and what to put in its place; undefined when it is sound. */
  #l1Fault(high: number, low: number): MendedL1 | undefined {
    const found = mendL1Entry(high, low, this.#layout.clusterSize, this.#tally.clusters)
    // Without its reserved bits an entry may be misled still.
    const left = found ? viewOf(found.entry) : undefined
    const offset = left ? offsetOf(highOf(left, 0), lowOf(left, 0)) : offsetOf(high, low)
    const misled = this.#mends && !found?.lost && offset !== 0 && this.#isMisledL1(offset)
    const fault = misled ? mendMisledL1(high, low - (low % 512)) : found
    if (fault?.lost) this.#tally.incomplete = true
    return fault
  }

  #isMisledL1(offset: number): boolean {
    if (this.#tally.isFixed(offset, this.#layout.clusterSize)) return true
    return this.#options.before?.isMistaken(offset) ?? false
  }

  /** Whether what is taken for an L2 table is something else: it is used otherwise, and looks so. */
  isMistaken(offset: number): boolean {
    const table = this.#tables.get(offset)
    if (!table || table.broken * 2 <= table.used) return false
    return this.#tally.isShared(offset, this.#layout.clusterSize, table.times)
  }

  /** The same for the L1 table of a snapshot; `times`: how many snapshots have it. */
  isMistakenL1(offset: number, length: number, times: number): boolean {
    const l1 = this.#l1Tables.get(offset)
    if (!l1 || !this.#tally.isShared(offset, length, times)) return false
    return l1.faults > 0 || l1.tables.some((table) => this.isMistaken(table))
  }

  /** Whether the active L1 table is something else: it is used otherwise, or nothing in it is right. */
  isMisledActiveL1(): boolean {
    const { l1TableOffset, l1Size } = this.#image.header
    if (this.#tally.isShared(l1TableOffset, l1Size * entrySize, 1)) return true
    const { tables, faults } = this.#l1Tables.get(l1TableOffset)!
    const broken = tables.filter((offset) => {
      const { broken, used } = this.#tables.get(offset)!
      return broken * 2 > used
    })
    return (faults + broken.length) * 2 > tables.length && faults + broken.length > 0
  }

  #noteTable(
    l1: L1Walk,
    index: number,
    high: number,
    low: number,
    times: number,
    /** The entry as it stands there; given for the active table. */
    shown: string | undefined,
  ): void {
    const offset = offsetOf(high, low)
    if (offset === 0 && !this.#tellsAsFound) return
    const known = this.#tables.get(offset)
    const table = known ?? { times: 0, active: 0, l1Index: index, used: 0, broken: 0 }
    table.times += times
    this.#tables.set(offset, table)
    const position = l1.tables.push(offset) - 1
    if (shown === undefined) return
    table.active++
    if (offset === 0) return
    const refcount = this.#options.stored.get(Math.floor(offset / this.#layout.clusterSize))
    if (isCopied(high) === (refcount === 1)) return
    this.#findingsAt(l1.copiedFaults, position).corruption(
      `OFLAG_COPIED L2 cluster: l1_index=${index} l1_entry=${shown} refcount=${refcount}`,
    )
  }

  async #bitmaps(): Promise<void> {
    const { file } = this.#image
    const check = {
      ...this.#image,
      report: this.#report,
      region: (offset: number, length: number) => {
        // A repair makes the file longer.
        this.#tally.clusters = Math.ceil(file.end / this.#layout.clusterSize)
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
      if (this.#tally.isShared(offset, length, 0)) return true
      for (let at = alignDown(offset, clusterSize); at < offset + length; at += clusterSize) {
        if (blockPlaces.has(at)) return true
      }
      return false
    })
  }
}
