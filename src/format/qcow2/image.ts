/** An open image: its parts put together, and what needs several of them. */
import type { CheckResult } from '../../block/abilities.ts'
import type { BlockLayer, ResizeIo } from '../../block/layer.ts'
import { Allocator } from './allocator.ts'
import { CompressedClusters } from './compressed.ts'
import { Corruption } from './corruption.ts'
import { lengthenDataFile, noDataFile, type OpenDataFile } from './data-file.ts'
import type { ImageEncryption } from './encryption/encryption.ts'
import { Faults } from './faults.ts'
import { type FreeReason, PendingFrees } from './frees.ts'
import { guardMetadata } from './guarded-tables.ts'
import { DataFileSpace, type GuestSpace, ImageSpace } from './guest-space.ts'
import { autoclear } from './header.ts'
import { HeaderState } from './header-state.ts'
import { ImageFile } from './image-file.ts'
import { clusterOf, highOf, kind, L2Layout, lowOf } from './l2-table.ts'
import { L2Tables } from './l2-tables.ts'
import { MetadataGuard } from './metadata-guard.ts'
import { hostOffset } from './offsets.ts'
import {
  checkKeeping,
  checkLazy,
  isLazy,
  loadCheck,
  prepareWriting,
  readHeader,
} from './opening.ts'
import { Refcounts } from './refcounts.ts'
import { resizeImage } from './resize.ts'
import { cacheCapacity, type ImageSettings } from './settings.ts'
import { refuseLongExtra } from './snapshot-table.ts'
import type { Table } from './table.ts'
import { WriteBack } from './write-back.ts'

export class Qcow2Image {
  readonly file: ImageFile
  readonly header: HeaderState
  readonly faults: Faults
  readonly layout: L2Layout
  #settings: ImageSettings
  #readOnly: boolean
  readonly l2Tables: L2Tables
  readonly refcounts: Refcounts
  readonly frees: PendingFrees
  readonly allocator: Allocator
  /** Where the guest's data lies if not in the image file. */
  readonly dataFile: BlockLayer | undefined
  /** Set once more where an encrypted image is unlocked. */
  space: GuestSpace
  /** Of an encrypted image, unless that is only looked at as a file (check, creation). */
  encryption?: ImageEncryption
  readonly writeBack: WriteBack
  readonly compressed: CompressedClusters
  readonly guard: MetadataGuard
  readonly corruption: Corruption
  #cleaner: NodeJS.Timeout | undefined

  private constructor(
    file: ImageFile,
    header: HeaderState,
    faults: Faults,
    l2Tables: L2Tables,
    refcounts: Refcounts,
    settings: ImageSettings,
    guard: MetadataGuard,
    corruption: Corruption,
    dataFile: BlockLayer | undefined,
  ) {
    this.guard = guard
    this.corruption = corruption
    this.file = file
    this.header = header
    this.faults = faults
    this.layout = l2Tables.layout
    this.#settings = settings
    this.#readOnly = settings.readOnly
    this.l2Tables = l2Tables
    this.refcounts = refcounts
    this.frees = new PendingFrees(this.layout.clusterSize)
    this.allocator = new Allocator(refcounts, this.frees, file, guard, faults)
    this.dataFile = dataFile
    this.space = dataFile ? new DataFileSpace(dataFile) : new ImageSpace(file, this.allocator)
    const { frees, allocator, space } = this
    const isLazyNow = () => !this.#readOnly && isLazy(header.current, this.#settings)
    const discards = () => this.#settings.discards
    this.writeBack = new WriteBack({
      file,
      header,
      l2Tables,
      refcounts,
      frees,
      allocator,
      get lazy() {
        return isLazyNow()
      },
      get discards() {
        return discards()
      },
      space,
    })
    corruption.alone = (work) => this.writeBack.alone(work)
    corruption.reaction = () => {
      if (this.forCheck) return 'nothing'
      return this.#readOnly ? 'tell' : 'mark'
    }
    l2Tables.unaligned = (message, at) => corruption.signal(message, at)
    refcounts.unaligned = (message, at) => corruption.signal(message, at)
    l2Tables.makeRoom = () => this.writeBack.flushChanges()
    refcounts.makeRoom = () => this.writeBack.writeBlocks()
    this.compressed = new CompressedClusters(this)
    this.#startCleaner(settings.cacheCleanSeconds)
  }

  /** Reads header and top-level tables. The layer stays its owner's. */
  static async open(
    layer: BlockLayer,
    settings: ImageSettings,
    openDataFile: OpenDataFile = noDataFile,
  ): Promise<Qcow2Image> {
    const faults = new Faults(settings.name, layer.image?.filename)
    const header = await readHeader(layer, settings, faults)
    const dataFile = await openDataFile(header)
    if (dataFile && !settings.readOnly) await lengthenDataFile(dataFile, header)
    const file = new ImageFile(layer, 2 ** header.clusterBits, faults)
    const state = new HeaderState(header)
    if (!settings.check) await refuseLongExtra(file, header, faults)
    if (!settings.readOnly) await prepareWriting(state, file, faults, settings)
    checkLazy(header, settings, faults)
    checkKeeping(header, settings, faults)
    const layout = new L2Layout(header)
    const capacity = cacheCapacity(settings, header)
    const corruption = new Corruption(state, file, faults, settings.name)
    // What is only checked needs no guard, and has to be opened however broken it is.
    const kinds = settings.check ? [] : settings.guarded
    const guard = new MetadataGuard(kinds, file.clusterSize, (message, at) =>
      corruption.signal(message, at),
    )
    const { l2Tables: l2Capacity, refcountBlocks } = capacity
    const l2Tables = await L2Tables.open(file, header, layout, faults, guard, l2Capacity)
    const refcounts = await Refcounts.open(file, state, faults, guard, refcountBlocks)
    const parts = [guard, corruption, dataFile] as const
    const image = new Qcow2Image(file, state, faults, l2Tables, refcounts, settings, ...parts)
    if (!settings.readOnly) await guardMetadata(image)
    return image
  }

  get readOnly(): boolean {
    return this.#readOnly
  }

  /** Whether it was opened to be checked. */
  get forCheck(): boolean {
    return this.#settings.check === true
  }

  /** Whether clusters that are discarded keep their place. */
  get keepsDiscarded(): boolean {
    return this.#settings.keepDiscarded === true
  }

  /** Reads everything anew: another process has had the image, which is read-only here. */
  async reread(): Promise<void> {
    const { file, faults, layout } = this
    const header = await readHeader(file.layer, this.#settings, faults)
    const now = new L2Layout(header)
    if (now.clusterSize !== layout.clusterSize || now.extended !== layout.extended) {
      throw faults.refuse(
        'BUSY',
        'another process has put another image in its place; open it anew',
      )
    }
    file.reread()
    this.header.reread(header)
    await this.reload()
    await this.rereadOthers()
  }

  /** Reads what others have read of the image; for `reread`. */
  rereadOthers: () => Promise<void> = async () => {}

  /** Takes over other settings. Nobody else uses the disk meanwhile. */
  async reopen(changed: Omit<ImageSettings, 'name' | 'readOnly'>): Promise<void> {
    const settings = { ...this.#settings, ...changed }
    checkLazy(this.header.current, settings, this.faults)
    checkKeeping(this.header.current, settings, this.faults)
    // Caches that shrink have nothing to write back then, and counts that were put off are exact.
    if (!this.#readOnly) await this.writeBack.finish()
    const { l2Tables, refcountBlocks } = cacheCapacity(settings, this.header.current)
    this.#settings = settings
    this.l2Tables.cache.capacity = l2Tables
    this.refcounts.cache.capacity = refcountBlocks
    clearInterval(this.#cleaner)
    this.#startCleaner(settings.cacheCleanSeconds)
    this.guard.setKinds(settings.guarded)
    if (!this.#readOnly) await guardMetadata(this)
  }

  /**
   * Begins or ceases to be writable, after what opening or closing would do. Nobody else uses the
   * disk meanwhile; the file is writable all the time.
   */
  async setReadOnly(readOnly: boolean): Promise<void> {
    if (readOnly === this.#readOnly) return
    if (readOnly) {
      await this.writeBack.finish()
      await this.file.trim()
    } else {
      const settings = { ...this.#settings, readOnly }
      await prepareWriting(this.header, this.file, this.faults, settings)
      if (this.dataFile) await lengthenDataFile(this.dataFile, this.header.current)
      await this.reload()
      await guardMetadata(this)
    }
    this.#readOnly = readOnly
  }

  /**
   * Checks the image, and repairs it. What is in memory is written first. Nobody else may use the
   * disk meanwhile.
   */
  async check(repair: 'none' | 'leaks' | 'all'): Promise<CheckResult> {
    const { file, faults } = this
    if (repair !== 'none' && this.readOnly) {
      throw faults.refuse('READ_ONLY', 'a read-only image cannot be repaired')
    }
    // A dirty bit that was found, not set by lazy refcounts here, stays until the counts are mended.
    const asFound = this.#settings.check === true && this.marked
    if (!this.readOnly && !asFound && !this.header.corruptBit) await this.writeBack.finish()
    const header = this.header.current
    const { checkImage } = await loadCheck()
    const result = await checkImage({ file, faults, header, state: this.header, repair })
    if (repair !== 'none') await this.reload()
    return result
  }

  /** Space that a guest gives up goes back to the file system. */
  get discardsRequested(): boolean {
    return this.#settings.discards.has('request')
  }

  /** The data file has to be the whole disk by itself. */
  get raw(): boolean {
    return (this.header.current.autoclearFeatures & autoclear.rawExternalData) !== 0n
  }

  /** Whether the header says that the tables cannot be relied on. */
  get marked(): boolean {
    return this.header.dirtyBit || this.header.corruptBit
  }

  /** Throws if a table of the disk's own, which is about to change, lies on other metadata. */
  checkTable(table: Table): void {
    if (!table.dirty) this.guard.checkTable('active-l2', table.offset, this.layout.clusterSize)
  }

  /** An L2 entry is about to lose its clusters. */
  releaseEntry(high: number, low: number, reason: FreeReason): void {
    switch (this.layout.kindOf(high, low)) {
      case kind.data:
      case kind.zeroAllocated:
        this.space.free(clusterOf(high, low), 1, reason)
        break
      case kind.compressed: {
        const { clusterSize } = this.layout
        const offset = this.layout.compressedOffset(high, low)
        const end = offset + this.layout.compressedLength(high, low)
        const first = Math.floor(offset / clusterSize)
        const count = Math.ceil(end / clusterSize) - first
        this.compressed.forget(first, count)
        this.allocator.free(hostOffset(first * clusterSize), count, reason)
      }
    }
  }

  /** Frees what waits for a flush, where that is much. */
  async releaseMany(): Promise<void> {
    if (this.frees.many) await this.writeBack.flushChanges()
  }

  /** Releases everything that a run of entries refers to, without changing them. */
  releaseEntries(table: Table, first: number, count: number): void {
    const { layout } = this
    for (let index = first; index < first + count; index++) {
      const fault = layout.faultAt(table.view, index)
      if (fault !== undefined) {
        const at = table.offset + index * layout.entryBytes
        throw this.faults.corruptEntry(index, fault, at)
      }
      const word = layout.wordOf(index)
      this.releaseEntry(highOf(table.view, word), lowOf(table.view, word), 'request')
    }
  }

  async resize(size: number, io: ResizeIo): Promise<void> {
    await resizeImage(this, size, io)
  }

  /** Everything on stable storage, counts exact, dirty bit clear, no spare space at the end. */
  async close(): Promise<void> {
    clearInterval(this.#cleaner)
    if (this.readOnly) return
    // What seems free in a corrupt image may not be.
    if (this.corruption.found) this.frees.take()
    await this.writeBack.finish()
    await this.corruption.settled()
    await this.file.trim()
  }

  /** Forgets the tables and reads them again: what the header points at has been changed. */
  async reload(): Promise<void> {
    await this.l2Tables.reload()
    await this.refcounts.reload()
    if (!this.readOnly) await guardMetadata(this)
    this.allocator.reset()
    this.compressed.reset()
  }

  #startCleaner(seconds: number): void {
    if (seconds === 0) return
    const clean = () => {
      this.l2Tables.cache.dropUnused()
      this.refcounts.cache.dropUnused()
    }
    this.#cleaner = setInterval(clean, seconds * 1000)
    this.#cleaner.unref()
  }
}
