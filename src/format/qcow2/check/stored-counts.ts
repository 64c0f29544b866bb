/**
 * The refcounts that an image has, all of them, and the blocks that hold them. A table can name one
 * block a million times, or blocks for clusters that the file does not have: each block is read
 * once, for the first entry that names it, and only if it counts clusters of the file. An entry that
 * names a block again is found when references are counted, and has all refcounts written anew.
 */
import { plainIo } from '../../../block/layer.ts'
import { viewOf } from '../../../bytes/view.ts'
import { isZero } from '../../../bytes/zero.ts'
import { entrySize, highOf, lowOf, rawOf } from '../l2-table.ts'
import { RefcountLayout } from '../refcount.ts'
import { Counts } from './counts.ts'
import { ReadAhead } from './read-ahead.ts'
import type { CheckedImage } from './references.ts'

/** Broken entries that are told one by one. */
const maxFaults = 10_000

/** How the fault of a block that lies behind the end of the file is told. */
export const outsideImage = 'is outside image'

export interface StoredCounts {
  readonly counts: Counts
  /** Offsets of the blocks that can be read, by their index. */
  readonly blocks: ReadonlyMap<number, number>
  /** Offsets that are not aligned, or beyond what files can have, by the index of the block. */
  readonly unreadable: ReadonlyMap<number, bigint>
  /** What is wrong with entries of the refcount table, by their index; not all of it where it is very much. */
  readonly faults: ReadonlyMap<number, string>
  readonly layout: RefcountLayout
}

/** Whether the counts can be believed, at least those that say that something is free. */
export function areSound({ blocks, faults }: StoredCounts): boolean {
  return blocks.size > 0 && faults.size === 0
}

export async function readStoredCounts(image: CheckedImage): Promise<StoredCounts> {
  const { file, header } = image
  const clusterSize = 2 ** header.clusterBits
  const layout = new RefcountLayout(header.refcountOrder, clusterSize)
  const table = new Uint8Array(header.refcountTableClusters * clusterSize)
  await file.read(header.refcountTableOffset, table, plainIo)
  const view = viewOf(table)
  const counts = new Counts()
  const blocks = new Map<number, number>()
  const faults = new Map<number, string>()
  const unreadable = new Map<number, bigint>()
  // Entries with reserved bits are followed, but not counted: that is what qemu-img does.
  const followed = new Map<number, number>()
  for (let index = 0; index < table.length / 8; index++) {
    if (highOf(view, index) === 0 && lowOf(view, index) === 0) continue
    const reserved = lowOf(view, index) % 512
    const offset = rawOf(view, index) - reserved
    // The lower half alone, for offsets that are larger than numbers can say.
    const misaligned = (lowOf(view, index) - reserved) % clusterSize !== 0
    const fault = blockFault(index, offset, { reserved, misaligned }, file.size)
    if (misaligned || offset >= 2 ** 63) {
      unreadable.set(index, view.getBigUint64(index * entrySize) - BigInt(reserved))
    } else if (fault === undefined || reserved > 0) followed.set(index, offset)
    if (fault === undefined) blocks.set(index, offset)
    else if (faults.size < maxFaults) faults.set(index, fault)
  }
  const clusters = clustersOf(image)
  const block = new Uint8Array(clusterSize)
  const reader = new BlockReader(layout, clusterSize, clusters, counts)
  const wanted = firstOfEach(followed, Math.ceil(clusters / layout.entries))
  const ahead = new ReadAhead(file, [...wanted.keys()])
  for (const [offset, index] of wanted) {
    await ahead.read(offset, block)
    reader.read(block, index * layout.entries)
  }
  return { counts, blocks, unreadable, faults, layout }
}

/** Indices of blocks by their offset: of each the first, if it is below `end`. */
function firstOfEach(offsets: ReadonlyMap<number, number>, end: number): Map<number, number> {
  const first = new Map<number, number>()
  for (const [index, offset] of offsets) {
    if (index < end && !first.has(offset)) first.set(offset, index)
  }
  return first
}

/** Clusters of the file, the last one cut off maybe. Counts behind them are of no interest. */
export function clustersOf({ file, header }: CheckedImage): number {
  return Math.ceil(file.end / 2 ** header.clusterBits)
}

/** Bytes of a block that are compared at once, where not all of them are alike. */
const pageBytes = 4096

/** Takes counts out of blocks. Most clusters have the count of their neighbours: one, or none. */
class BlockReader {
  readonly #layout: RefcountLayout
  /** Of the file. */
  readonly #clusters: number
  readonly #counts: Counts
  /** A block in which all counts are one. */
  readonly #ones: Uint8Array

  constructor(layout: RefcountLayout, clusterSize: number, clusters: number, counts: Counts) {
    this.#layout = layout
    this.#clusters = clusters
    this.#counts = counts
    this.#ones = layout.ones(clusterSize)
  }

  /** `first`: the cluster whose count comes first. */
  read(block: Uint8Array, first: number): void {
    const layout = this.#layout
    const end = Math.min(layout.entries, this.#clusters - first)
    if (end === layout.entries && this.#areAlike(block, first, end)) return
    const view = viewOf(block)
    const bytes = Math.min(pageBytes, block.length)
    const step = (bytes * 8) / layout.bits
    for (let start = 0; start < end; start += step) {
      const at = layout.byteOf(start)
      const stop = Math.min(end, start + step)
      if (this.#areAlike(block.subarray(at, at + bytes), first + start, stop - start)) continue
      this.#readEach(view, first, start, stop)
    }
  }

  /** Whether all counts in `bytes` are one, or none; they are those of `count` clusters from `first` on. */
  #areAlike(bytes: Uint8Array, first: number, count: number): boolean {
    if (isZero(bytes)) return true
    if (Buffer.compare(bytes, this.#ones.subarray(0, bytes.length)) !== 0) return false
    this.#counts.addRange(first, count, 1)
    return true
  }

  #readEach(block: DataView, first: number, start: number, end: number): void {
    const layout = this.#layout
    for (let index = start; index < end; ) {
      const count = layout.get(block, index)
      const from = index++
      while (index < end && layout.get(block, index) === count) index++
      if (count > 0) this.#counts.addRange(first + from, index - from, count)
    }
  }
}

function blockFault(
  index: number,
  offset: number,
  { reserved, misaligned }: { readonly reserved: number; readonly misaligned: boolean },
  fileSize: number,
): string | undefined {
  if (reserved > 0) return `refcount table entry ${index} has reserved bits set`
  if (misaligned) {
    return `refcount block ${index} is not cluster aligned; refcount table entry corrupted`
  }
  return offset >= fileSize ? `refcount block ${index} ${outsideImage}` : undefined
}
