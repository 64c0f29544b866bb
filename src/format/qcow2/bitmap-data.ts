/**
 * The bits of a persistent bitmap: a table, each entry of which is a cluster of bits, or says that
 * all of its bits are clear or set.
 */
import type { DirtyBitmap } from '../../bitmap/dirty-bitmap.ts'
import { type Io, plainIo } from '../../block/layer.ts'
import { viewOf } from '../../bytes/view.ts'
import type { BitmapEntry } from './bitmap-directory.ts'
import { tableSizeFor } from './bitmap-directory.ts'
import { type Faults, hex } from './faults.ts'
import type { Qcow2Image } from './image.ts'
import { entrySize, highOf, lowOf, offsetOf } from './l2-table.ts'
import { type HostRun, hostOffset } from './offsets.ts'

/** Bits of the halves of a table entry that have to be clear: 56 to 63, and 1 to 8. */
const reservedHigh = 0xff000000
const reservedLow = 0x1fe
const allOnes = 1

/** What an entry of a bitmap table says: a cluster, or all bits alike. */
export type TableEntry = number | 'zeroes' | 'ones'

/** Undefined where the entry contradicts the format. */
export function tableEntry(high: number, low: number, clusterSize: number): TableEntry | undefined {
  if ((high & reservedHigh) !== 0 || (low & reservedLow) !== 0) return undefined
  const ones = (low & allOnes) !== 0
  const offset = offsetOf(high, low - (low % 512))
  if (offset === 0) return ones ? 'ones' : 'zeroes'
  return ones || offset % clusterSize !== 0 ? undefined : offset
}

/** Adds the stored bits to `bitmap`. `budget` bounds what all bitmaps of the image may refer to. */
export async function loadBits(
  image: Qcow2Image,
  { tableOffset, tableSize }: BitmapEntry,
  bitmap: DirtyBitmap,
  budget: ReadBudget,
  io: Io,
): Promise<void> {
  const { file, faults, layout } = image
  const { clusterSize } = layout
  const table = new Uint8Array(tableSize * entrySize)
  budget.take(table.length, tableOffset)
  await file.read(tableOffset, table, io)
  const view = viewOf(table)
  const step = clusterSize * 8 * bitmap.granularity
  const bits = new Uint8Array(clusterSize)
  for (let index = 0; index < tableSize; index++) {
    const entry = tableEntry(highOf(view, index), lowOf(view, index), clusterSize)
    const at = tableOffset + index * entrySize
    if (entry === undefined) throw broken(faults, bitmap.name, at)
    if (entry === 'zeroes') continue
    if (entry === 'ones') {
      bitmap.add(index * step, Math.min(step, bitmap.size - index * step))
      continue
    }
    if (entry >= file.size) {
      // QEMU takes such bits for clear, which would leave changes out of a backup.
      const what = `Broken bitmap '${bitmap.name}': entry ${index} of its table`
      throw faults.refuse('CORRUPT_IMAGE', `${what}, at ${hex(at)}, leads nowhere`, at)
    }
    io.signal.throwIfAborted()
    budget.take(clusterSize, at)
    await file.read(entry, bits, io)
    bitmap.addBits(index * step, bits)
  }
}

/**
 * Bitmaps never share clusters, so together they refer to no more than the file has; what claims
 * more has been made to take our memory.
 */
export class ReadBudget {
  readonly #faults: Faults
  #left: number

  constructor(image: Qcow2Image) {
    this.#faults = image.faults
    this.#left = image.file.size + image.layout.clusterSize
  }

  take(bytes: number, at: number): void {
    this.#left -= bytes
    if (this.#left >= 0) return
    throw this.#faults.refuse(
      'CORRUPT_IMAGE',
      'Broken bitmaps: together they refer to more bytes than the file has',
      at,
    )
  }
}

/**
 * Writes bits and table to newly taken clusters, which are noted in `taken` as they are taken.
 * Nothing refers to them yet.
 */
export async function writeBits(
  image: Qcow2Image,
  bitmap: DirtyBitmap,
  taken: HostRun[],
): Promise<{ tableOffset: number; tableSize: number }> {
  const { layout, header } = image
  const { clusterSize } = layout
  const tableSize = tableSizeFor(header.current, bitmap.granularity)
  const table = new Uint8Array(tableSize * entrySize)
  const view = viewOf(table)
  const step = clusterSize * 8 * bitmap.granularity
  const bits = new Uint8Array(clusterSize)
  for (let run = bitmap.nextDirty(0); run; ) {
    const index = Math.floor(run.offset / step)
    const end = (index + 1) * step
    if (run.offset === index * step && bitmap.nextClean(run.offset, end) === end) {
      view.setUint32(index * entrySize + 4, allOnes)
    } else {
      bitmap.writeBits(index * step, bits)
      setOffset(view, index, await writeClusters(image, bits, taken))
    }
    run = bitmap.nextDirty(end)
  }
  return { tableOffset: await writeClusters(image, table, taken), tableSize }
}

/** Writes to newly taken clusters in a row; returns their offset. */
export async function writeClusters(
  image: Qcow2Image,
  bytes: Uint8Array,
  taken: HostRun[],
): Promise<number> {
  const { allocator, file, layout } = image
  const count = Math.ceil(bytes.length / layout.clusterSize)
  const run = count === 1 ? await allocator.take(1) : await allocator.takeWhole(count)
  taken.push(run)
  file.claim(run.offset, count * layout.clusterSize)
  await file.write(run.offset, bytes)
  return run.offset
}

/** Runs of clusters that a stored bitmap occupies; those that cannot be are left out. */
export async function clustersOf(image: Qcow2Image, entry: BitmapEntry): Promise<HostRun[]> {
  const { file, layout } = image
  const { clusterSize } = layout
  const table = new Uint8Array(entry.tableSize * entrySize)
  await file.read(entry.tableOffset, table, plainIo)
  const view = viewOf(table)
  const runs: HostRun[] = []
  for (let index = 0; index < entry.tableSize; index++) {
    const place = tableEntry(highOf(view, index), lowOf(view, index), clusterSize)
    if (typeof place !== 'number' || place >= file.size) continue
    runs.push({ offset: hostOffset(place), count: 1 })
  }
  const count = Math.ceil(table.length / clusterSize)
  runs.push({ offset: hostOffset(entry.tableOffset), count })
  return runs
}

function setOffset(view: DataView, index: number, offset: number): void {
  view.setUint32(index * entrySize, Math.floor(offset / 2 ** 32))
  view.setUint32(index * entrySize + 4, offset % 2 ** 32)
}

function broken(faults: Faults, name: string, at: number) {
  const what = `Could not read bitmap_table table from image for bitmap '${name}'`
  return faults.refuse('CORRUPT_IMAGE', `${what}: Invalid argument`, at)
}
