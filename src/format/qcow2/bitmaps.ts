/**
 * Persistent bitmaps of an open image.
 *
 * While the image is open for writing every bitmap on disk is marked as in use, so a crash leaves
 * bitmaps that nobody will rely on. Storing never changes what is there: new bits, new tables and a
 * new directory are written to free clusters and flushed with their refcounts; then the header's
 * first sector, written at once, points at the new directory; then the old clusters are let go. A
 * crash at any moment leaves the old directory or the new one, and at most a leak.
 *
 * Marking as in use is the one change in place. It needs no order: the entries are independent,
 * their flags never straddle a sector, and the first guest write waits for all of them.
 */
import { type DirtyBitmap, minGranularity } from '../../bitmap/dirty-bitmap.ts'
import type { PersistentBitmaps, StoredBitmap } from '../../block/abilities.ts'
import type { Io } from '../../block/layer.ts'
import { BlockError } from '../../errors.ts'
import { writeHead } from './backing-link.ts'
import { clustersOf, loadBits, ReadBudget, writeBits, writeClusters } from './bitmap-data.ts'
import {
  type BitmapDirectory,
  type BitmapEntry,
  encodeDirectory,
  encodeExtension,
  entryLength,
  readBitmapDirectory,
} from './bitmap-directory.ts'
import { extensionType } from './extensions.ts'
import { autoclear, type Header } from './header.ts'
import type { Qcow2Image } from './image.ts'
import {
  maxBitmapBytes,
  maxBitmapDirectoryBytes,
  maxBitmapNameBytes,
  maxBitmaps,
} from './limits.ts'
import { type HostRun, hostOffset } from './offsets.ts'

export class Qcow2Bitmaps implements PersistentBitmaps {
  readonly #image: Qcow2Image
  #directory: BitmapDirectory | undefined
  #budget: ReadBudget

  private constructor(image: Qcow2Image, directory: BitmapDirectory | undefined) {
    this.#image = image
    this.#directory = directory
    this.#budget = new ReadBudget(image)
  }

  static async open(image: Qcow2Image): Promise<Qcow2Bitmaps> {
    const { file, header, faults } = image
    try {
      return new Qcow2Bitmaps(image, await readBitmapDirectory(file, header.current, faults))
    } catch (error) {
      // A repair gives up what is broken, and nobody else gets to see these bitmaps.
      if (!image.forCheck || image.readOnly || !(error instanceof BlockError)) throw error
      return new Qcow2Bitmaps(image, undefined)
    }
  }

  /** Somebody else may have changed the directory. */
  async reread(): Promise<void> {
    const { file, header, faults } = this.#image
    this.#directory = await readBitmapDirectory(file, header.current, faults)
    this.#budget = new ReadBudget(this.#image)
  }

  /** Whether the image names a directory that whoever has written to it did not keep up to date. */
  get stale(): boolean {
    const { autoclearFeatures, extensions } = this.#image.header.current
    if ((autoclearFeatures & autoclear.bitmaps) !== 0n) return false
    return extensions.some(({ type }) => type === extensionType.bitmaps)
  }

  get able(): boolean {
    return this.#image.header.current.version >= 3
  }

  list(): readonly StoredBitmap[] {
    return this.#entries.map(({ name, granularityBits, auto, inUse }) => ({
      name,
      granularity: 2 ** granularityBits,
      auto,
      inUse,
    }))
  }

  async load(bitmap: DirtyBitmap, io: Io): Promise<void> {
    const entry = this.#entries.find(({ name }) => name === bitmap.name)
    if (entry) await loadBits(this.#image, entry, bitmap, this.#budget, io)
  }

  async claim(): Promise<void> {
    // What cannot be relied on goes before somebody believes in it again.
    if (this.stale) await this.#image.writeBack.withHeader(() => this.#writeHeader(undefined, []))
    const directory = this.#directory
    if (!directory || directory.entries.every(({ inUse }) => inUse)) return
    const entries = directory.entries.map((entry) => ({ ...entry, inUse: true }))
    const { file } = this.#image
    await file.write(directory.offset, encodeDirectory(entries))
    await file.flush()
    this.#directory = { ...directory, entries }
  }

  /** Of an empty disk none: QEMU does not open an image in which a bitmap has no bits, and drops them, too. */
  async store(bitmaps: readonly DirtyBitmap[], io: Io): Promise<void> {
    const taken: HostRun[] = []
    const kept = this.#image.header.current.size === 0 ? [] : bitmaps
    try {
      const entries = await this.#newEntries(kept, taken, io)
      const lasting = new Set(entries)
      const dropped = this.#entries.filter((entry) => !lasting.has(entry))
      await this.#replace(entries, dropped, taken)
    } catch (error) {
      // What the header may point at already stays: a leak at most.
      for (const run of taken) await this.#image.allocator.giveBack(run)
      throw error
    }
  }

  async remove(name: string): Promise<void> {
    const { readOnly, faults } = this.#image
    if (readOnly) throw faults.refuse('READ_ONLY', 'the bitmaps of a read-only image cannot change')
    const dropped = this.#entries.filter((entry) => entry.name === name)
    if (dropped.length === 0) return
    const taken: HostRun[] = []
    try {
      const rest = this.#entries.filter((entry) => entry.name !== name)
      await this.#replace(rest, dropped, taken)
    } catch (error) {
      for (const run of taken) await this.#image.allocator.giveBack(run)
      throw error
    }
  }

  checkNew(bitmap: DirtyBitmap, others: readonly DirtyBitmap[]): void {
    const { faults, header } = this.#image
    const refuse = (message: string) => faults.refuse('INVALID_ARGUMENT', message)
    const { name, granularity, size } = bitmap
    if (header.current.version < 3) throw refuse('Cannot store dirty bitmaps in qcow2 v2 files')
    if (Buffer.byteLength(name) > maxBitmapNameBytes) {
      throw refuse(`Name length exceeds maximum (${maxBitmapNameBytes} characters)`)
    }
    if (Math.ceil(size / granularity / 8) > maxBitmapBytes) {
      throw refuse('Too much space will be occupied by the bitmap. Use larger granularity')
    }
    if (granularity < minGranularity) throw refuse(`Granularity is under minimum (512 bytes)`)
    if (others.length >= maxBitmaps) {
      throw refuse('Maximum number of persistent bitmaps is already reached')
    }
    const names = [name, ...others.map((other) => other.name)]
    if (names.reduce((sum, each) => sum + entryLength(each), 0) > maxBitmapDirectoryBytes) {
      throw refuse('Not enough space in the bitmap directory')
    }
  }

  get #entries(): readonly BitmapEntry[] {
    return this.#directory?.entries ?? []
  }

  /** Those that are stored keep their places in the order. */
  async #newEntries(
    bitmaps: readonly DirtyBitmap[],
    taken: HostRun[],
    io: Io,
  ): Promise<BitmapEntry[]> {
    const known = new Set(this.#entries.map(({ name }) => name))
    const byName = new Map(bitmaps.map((bitmap) => [bitmap.name, bitmap]))
    const stored = this.#entries.flatMap((entry) => {
      const bitmap = byName.get(entry.name)
      return bitmap ? [{ bitmap, entry }] : []
    })
    const added = bitmaps.filter(({ name }) => !known.has(name))
    const entries: BitmapEntry[] = []
    for (const { bitmap, entry } of [
      ...stored,
      ...added.map((bitmap) => ({ bitmap, entry: undefined })),
    ]) {
      io.signal.throwIfAborted()
      if (bitmap.inconsistent) {
        if (entry) entries.push(entry)
        continue
      }
      entries.push({
        ...(await writeBits(this.#image, bitmap, taken)),
        name: bitmap.name,
        inUse: false,
        auto: bitmap.enabled,
        granularityBits: Math.log2(bitmap.granularity),
        extraData: entry?.extraData ?? new Uint8Array(0),
      })
    }
    return entries
  }

  /** Puts a directory of `entries` in place of the present one and lets go of that and of `dropped`. */
  async #replace(
    entries: readonly BitmapEntry[],
    dropped: readonly BitmapEntry[],
    taken: HostRun[],
  ): Promise<void> {
    const image = this.#image
    const { writeBack, allocator, layout, guard } = image
    const former = this.#directory
    const garbage: HostRun[] = []
    for (const entry of dropped) garbage.push(...(await clustersOf(image, entry)))
    if (former) {
      const count = Math.ceil(former.length / layout.clusterSize)
      garbage.push({ offset: hostOffset(former.offset), count })
    }
    const next = entries.length === 0 ? undefined : await this.#writeDirectory(entries, taken)
    // Counts, bits and tables are on stable storage before the header leads to them; also with
    // lazy refcounts, since the dirty bit may not be set.
    await writeBack.finish()
    await writeBack.withHeader(() => this.#writeHeader(next, taken))
    this.#directory = next
    if (former) guard.remove('bitmap-directory', former.offset, former.length)
    if (next) guard.add('bitmap-directory', next.offset, next.length)
    for (const { offset, count } of garbage) allocator.free(offset, count, 'other')
    await writeBack.flushChanges()
  }

  async #writeDirectory(
    entries: readonly BitmapEntry[],
    taken: HostRun[],
  ): Promise<BitmapDirectory> {
    const bytes = encodeDirectory(entries)
    const offset = await writeClusters(this.#image, bytes, taken)
    return { offset, length: bytes.length, entries }
  }

  async #writeHeader(directory: BitmapDirectory | undefined, taken: HostRun[]): Promise<void> {
    const { header, guard } = this.#image
    const others = header.stored.extensions.filter(({ type }) => type !== extensionType.bitmaps)
    const { bitmaps } = autoclear
    const rest = header.stored.autoclearFeatures & ~bitmaps
    const next: Header = {
      ...header.stored,
      // In front, so that it lies in the first sector, which is written at once.
      extensions: directory ? [encodeExtension(directory), ...others] : others,
      autoclearFeatures: directory ? rest | bitmaps : rest,
    }
    // From here on they may be referred to, whatever fails.
    taken.length = 0
    await writeHead(this.#image, next)
    header.replaceHead(next)
    header.current.autoclearFeatures = next.autoclearFeatures
    if (directory) guard.add('bitmap-directory', directory.offset, directory.length)
  }
}
