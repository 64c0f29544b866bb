/**
 * What is wrong with an entry of an L1 or L2 table, in the words of qemu-img, and the entry that
 * does least harm in its place: marks that must not be there are taken away; where the place of a
 * cluster is lost, the cluster reads as zeroes (of version 2: as the backing file has it).
 */
import { hex64 } from '../faults.ts'
import {
  clusterOf,
  entrySize,
  highOf,
  kind,
  type L2Layout,
  lowOf,
  offsetOf,
  setCopied,
  setEntry,
} from '../l2-table.ts'
import { maxHostOffset } from '../limits.ts'
import { hostOffset } from '../offsets.ts'
import { allocatedOf, setSubclusters, zeroOf } from '../subclusters.ts'

/** Bits of an L1 entry that mean something, and those of its upper half that do not. */
const l1High = 0x80ffffff
export const l1Reserved = 0x7f000000
/** Bits of a standard L2 entry that mean something, and of a compressed one. */
const l2High = 0xc0ffffff
const copiedHigh = 0x80000000

export interface MendedL1 {
  readonly message: string
  readonly entry: Uint8Array
  /** What it referred to is not known. */
  readonly lost: boolean
}

/** Undefined when the entry is sound. */
export function mendL1Entry(
  high: number,
  low: number,
  clusterSize: number,
  fileClusters: number,
): MendedL1 | undefined {
  const lowReserved = low % 512
  const clean = { high: (high & l1High) >>> 0, low: low - lowReserved }
  const offset = offsetOf(clean.high, clean.low)
  if (offset % clusterSize !== 0) {
    const message = unalignedL2Table(offset)
    return { message, entry: entryOf(0, 0), lost: true }
  }
  if (offset / clusterSize >= fileClusters) {
    const message = `l2_offset=${offset.toString(16)}: Table is behind the end of the file; L1 entry corrupted`
    return { message, entry: entryOf(0, 0), lost: true }
  }
  const nothing = offset === 0 && clean.high !== 0
  if (clean.high === high && lowReserved === 0 && !nothing) return undefined
  const message = reservedL1(high, low)
  const entry = entryOf(nothing ? 0 : clean.high, clean.low)
  return { message, entry, lost: false }
}

export function unalignedL2Table(offset: number): string {
  return `l2_offset=${offset.toString(16)}: Table is not cluster aligned; L1 entry corrupted`
}

export function reservedL1(high: number, low: number): string {
  return `found L1 entry with reserved bits set: ${hex64(high, low)}`
}

/** For entries that name the header or the L1 table itself. */
export function mendMisledL1(high: number, low: number): MendedL1 {
  const offset = offsetOf(high, low)
  const message = `l2_offset=${offset.toString(16)}: Table is in place of other metadata; L1 entry corrupted`
  return { message, entry: entryOf(0, 0), lost: true }
}

export interface MendedL2 {
  /** Said before, in the words of an error, as qemu-img does. */
  readonly also?: string
  readonly message: string | undefined
  readonly high: number
  readonly low: number
  readonly lost: boolean
}

/** For entries that `L2Layout.faultOf` complains about, or that point behind the end of the file. */
export function mendL2Entry(
  index: number,
  high: number,
  low: number,
  layout: L2Layout,
  fileSize: number,
): MendedL2 {
  if (layout.kindOf(high, low) === kind.compressed)
    return mendCompressed(index, high, low, layout, fileSize)
  const zero = layout.version >= 3 && !layout.extended ? low % 2 : 0
  const clean = { high: (high & l2High) >>> 0, low: low - (low % 512) + zero }
  const offset = offsetOf(clean.high, clean.low - zero)
  const where = `offset=${offset.toString(16)}`
  if (offset % layout.clusterSize !== 0) {
    const what = zero === 1 ? 'Preallocated' : 'Data'
    const message = `${where}: ${what} cluster is not properly aligned; L2 entry corrupted.`
    const reserved = clean.high !== high || low % 512 !== zero
    const also = reserved ? reservedL2(high, low) : undefined
    return { also, message, ...emptied(layout), lost: true }
  }
  if (offset >= fileSize && !layout.external) {
    const message = `${where}: Data cluster is behind the end of the file; L2 entry corrupted.`
    return { message, ...emptied(layout), lost: true }
  }
  // A data file has no end that counts, but offsets do.
  if (offset > maxHostOffset) {
    const message = `${where}: Data cluster is beyond 2^53; L2 entry corrupted.`
    return { message, ...emptied(layout), lost: true }
  }
  const message = reservedL2(high, low)
  // In a data file, 0 is the place of the first cluster.
  if (offset === 0 && !layout.external) {
    return { message, high: 0, low: zero, lost: false }
  }
  return { message, ...clean, lost: false }
}

function reservedL2(high: number, low: number): string {
  return `found l2 entry with reserved bits set: ${hex64(high, low)}`
}

/** For entries that refer to where metadata lies, which is in nobody's way but theirs. */
export function mendMisled(high: number, low: number, layout: L2Layout): MendedL2 {
  const compressed = layout.kindOf(high, low) === kind.compressed
  const offset = compressed ? layout.compressedOffset(high, low) : clusterOf(high, low)
  const message = `offset=${offset.toString(16)}: Data cluster is in place of metadata; L2 entry corrupted.`
  return { message, ...emptied(layout), lost: true }
}

/**
 * What is wrong with an entry of an image with a data file; makes `view` name the one place where
 * the cluster can lie, so nothing is lost. Whether it reads as zeroes stays as it is.
 */
export function mendPlace(
  view: DataView,
  index: number,
  layout: L2Layout,
  own: number,
): Pick<MendedL2, 'also'> & { readonly message: string } {
  const word = layout.wordOf(index)
  const high = highOf(view, word)
  const low = lowOf(view, word)
  const fault = mendL2Entry(index, high, low, layout, Number.POSITIVE_INFINITY)
  const elsewhere = layout.faultOf(high, low) === undefined
  const compressed = layout.kindOf(high, low) === kind.compressed
  const zero = !compressed && layout.version >= 3 && !layout.extended ? low % 2 : 0
  setCopied(view, word, hostOffset(own))
  setEntry(view, word, highOf(view, word), lowOf(view, word) + zero)
  if (layout.faultAt(view, index) !== undefined) mendSubclusters(view, index, layout)
  if (!elsewhere) return { also: fault.also, message: fault.message! }
  const place = `offset=${clusterOf(high, low).toString(16)}`
  return {
    message: `${place}: Data cluster does not lie where it does on the disk; L2 entry corrupted.`,
  }
}

function mendCompressed(
  index: number,
  high: number,
  low: number,
  layout: L2Layout,
  fileSize: number,
): MendedL2 {
  const offset = layout.compressedOffset(high, low)
  if (layout.external) {
    const message = `compressed cluster ${index} with data file, entry=0x${hex64(high, low)}`
    return { message, ...emptied(layout), lost: true }
  }
  const where = `: coffset=0x${offset.toString(16)}`
  if (offset < layout.clusterSize || offset >= fileSize) {
    const message = `${where}: compressed data is not inside the file; L2 entry corrupted.`
    return { message, ...emptied(layout), lost: true }
  }
  const message = `${where}: copied flag must never be set for compressed clusters`
  return { message, high: (high & ~copiedHigh) >>> 0, low, lost: false }
}

function emptied(layout: L2Layout): { high: number; low: number } {
  return { high: 0, low: layout.version >= 3 && !layout.extended ? 1 : 0 }
}

/**
 * What is wrong with the subclusters of an entry whose cluster is sound; makes `view` say what does
 * least harm. Data that is there stays data; where there is no cluster, it reads as zeroes.
 */
export function mendSubclusters(view: DataView, index: number, layout: L2Layout): string {
  const high = highOf(view, layout.wordOf(index))
  const low = lowOf(view, layout.wordOf(index))
  const allocated = allocatedOf(view, index)
  const zero = zeroOf(view, index)
  switch (layout.kindOf(high, low)) {
    case kind.compressed:
      setSubclusters(view, index, 0, 0)
      return `compressed cluster ${index} with non-zero subcluster allocation bitmap, entry=0x${hex64(high, low)}`
    case kind.unallocated:
      setSubclusters(view, index, 0, (allocated | zero) >>> 0)
      return ': Unallocated cluster has non-zero subcluster allocation map'
    default:
      setSubclusters(view, index, allocated, (zero & ~allocated) >>> 0)
      return `offset=${clusterOf(high, low).toString(16)}: Allocated cluster has corrupted subcluster allocation bitmap`
  }
}

function entryOf(high: number, low: number): Uint8Array {
  const bytes = new Uint8Array(entrySize)
  setEntry(new DataView(bytes.buffer), 0, high, low)
  return bytes
}
