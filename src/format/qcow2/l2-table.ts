/**
 * Entries of L1 and L2 tables, read and written as two 32-bit halves: they are consulted for every
 * request. `high` holds bits 32 to 63 of an entry, `low` bits 0 to 31; the bit operators are used
 * on halves only, never on offsets.
 *
 * The accessors count 64-bit words. An entry is one word; an extended L2 entry is two, of which
 * the second says which subclusters are there (`subclusters.ts`): `L2Layout.wordOf` knows.
 */
import { hex } from './faults.ts'
import { type Header, incompatible } from './header.ts'
import { maxHostOffset } from './limits.ts'
import { type HostOffset, hostOffset } from './offsets.ts'
import { allocatedOf, subclusterCount, zeroOf } from './subclusters.ts'

/** Bytes of an entry of any table but extended L2 tables: of one word. */
export const entrySize = 8

/** Bit 63: the cluster's refcount is exactly one, so it can be written in place. */
const copiedHigh = 0x80000000
/** Bit 62 of an L2 entry. */
const compressedHigh = 0x40000000
/** Bits 32 to 61: where and how long compressed data is. */
const descriptorHigh = 0x3fffffff
/** Bits 56 to 61 of an L2 entry, 56 to 62 of an L1 entry. */
const reservedHighL2 = 0x3f000000
const reservedHighL1 = 0x7f000000
/** Bits 32 to 55. */
const offsetHigh = 0x00ffffff
/** Bit 0 of an L2 entry. */
const zeroLow = 1
const two32 = 2 ** 32

/**
 * What an L2 entry says of its cluster. Extended entries say of each subcluster whether it is
 * there, so of the cluster only whether a host cluster is kept for it (`data`) or not.
 */
export const kind = {
  unallocated: 0,
  /** Reads as zeroes, nothing is kept for it. */
  zeroPlain: 1,
  /** Reads as zeroes, and a host cluster is kept for later writes. */
  zeroAllocated: 2,
  data: 3,
  compressed: 4,
} as const
export type Kind = (typeof kind)[keyof typeof kind]

/** The fields of a header that decide how L2 tables look. */
export type L2Features = Pick<Header, 'version' | 'clusterBits'> &
  Partial<Pick<Header, 'incompatibleFeatures'>>

/** Numbers that follow from the header. Set once. */
export class L2Layout {
  /** Changed by `amend`. */
  version: 2 | 3
  readonly clusterBits: number
  readonly clusterSize: number
  /** Entries have two words, and clusters have subclusters. */
  readonly extended: boolean
  /** Bytes that have a status of their own: a cluster, or a 32nd of one. */
  readonly subclusterSize: number
  /** The guest's clusters lie in a file of their own, each at its own offset. */
  readonly external: boolean
  /** Bytes of one L2 entry. */
  readonly entryBytes: number
  /** Entries of one L2 table. */
  readonly entries: number
  /** Bytes of the disk that one L2 table describes. */
  readonly coverage: number
  /** The upper half of a compressed cluster's entry: offset in these bits, sectors above them. */
  readonly #compressedOffsetBits: number
  readonly #compressedOffsetMask: number

  constructor({ version, clusterBits, incompatibleFeatures = 0n }: L2Features) {
    this.version = version
    this.clusterBits = clusterBits
    this.clusterSize = 2 ** clusterBits
    this.extended = (incompatibleFeatures & incompatible.extendedL2) !== 0n
    this.external = (incompatibleFeatures & incompatible.externalDataFile) !== 0n
    this.subclusterSize = this.extended ? this.clusterSize / subclusterCount : this.clusterSize
    this.entryBytes = this.extended ? 2 * entrySize : entrySize
    this.entries = this.clusterSize / this.entryBytes
    this.coverage = this.entries * this.clusterSize
    this.#compressedOffsetBits = 62 - (clusterBits - 8) - 32
    this.#compressedOffsetMask = 2 ** this.#compressedOffsetBits - 1
  }

  /** First byte that a compressed cluster cannot begin at. */
  get compressedEnd(): number {
    return Math.min(maxHostOffset, 2 ** (32 + this.#compressedOffsetBits))
  }

  /** Index into the L1 table. */
  l1Index(guest: number): number {
    return Math.floor(guest / this.coverage)
  }

  /** Index into the L2 table that describes `guest`. */
  l2Index(guest: number): number {
    return Math.floor((guest % this.coverage) / this.clusterSize)
  }

  /** Where an L2 entry begins, in words, for the accessors. */
  wordOf(index: number): number {
    return this.extended ? index * 2 : index
  }

  kindOf(high: number, low: number): Kind {
    if ((high & compressedHigh) !== 0) return kind.compressed
    const allocated = (high & ~copiedHigh) !== 0 || low > zeroLow
    // The bit of entries with subclusters means nothing.
    if ((low & zeroLow) !== 0 && !this.extended)
      return allocated ? kind.zeroAllocated : kind.zeroPlain
    // The first cluster of a data file is at offset 0: there the flag says that it is used.
    return allocated || (this.external && isCopied(high)) ? kind.data : kind.unallocated
  }

  /** What is wrong with an L2 entry, all of it, or undefined. */
  faultAt(view: DataView, index: number): string | undefined {
    const word = this.wordOf(index)
    const high = highOf(view, word)
    const low = lowOf(view, word)
    const fault = this.faultOf(high, low)
    if (fault !== undefined || !this.extended) return fault
    return this.#subclusterFault(
      this.kindOf(high, low),
      allocatedOf(view, index),
      zeroOf(view, index),
    )
  }

  /** What is wrong with the first word of an L2 entry, or undefined. */
  faultOf(high: number, low: number): string | undefined {
    const entryKind = this.kindOf(high, low)
    if (entryKind === kind.compressed) return this.#compressedFault(high, low)
    if ((high & reservedHighL2) !== 0) return 'has reserved bits set'
    if (this.version < 3 && (low & zeroLow) !== 0) return 'has reserved bits set'
    const offset = offsetOf(high, low - (low & zeroLow))
    // A mark without a cluster means nothing, to QEMU neither.
    if (entryKind === kind.unallocated || entryKind === kind.zeroPlain) return undefined
    if (offset % this.clusterSize !== 0) {
      return `points to ${hex(offset)}, not a multiple of ${this.clusterSize}`
    }
    return offset > maxHostOffset ? `points to ${hex(offset)}, beyond 2^53` : undefined
  }

  /** Where a compressed cluster's data begins: any byte. */
  compressedOffset(high: number, low: number): HostOffset {
    return hostOffset((high & this.#compressedOffsetMask) * two32 + low)
  }

  /** The same where it may be beyond what numbers can say: offsets have up to 61 bits. */
  exactCompressedOffset(high: number, low: number): bigint {
    return BigInt(high & this.#compressedOffsetMask) * BigInt(two32) + BigInt(low)
  }

  /** Bytes from the beginning of the data to the end of its last sector. */
  compressedLength(high: number, low: number): number {
    const sectors = ((high & descriptorHigh) >>> this.#compressedOffsetBits) + 1
    return sectors * 512 - (low % 512)
  }

  /** Upper half of the entry of compressed data at `offset`, `length` bytes long. */
  compressedHigh(offset: HostOffset, length: number): number {
    const sectors = Math.floor((offset + length - 1) / 512) - Math.floor(offset / 512)
    const high = Math.floor(offset / two32) + sectors * 2 ** this.#compressedOffsetBits
    return compressedHigh + high
  }

  #subclusterFault(entryKind: Kind, allocated: number, zero: number): string | undefined {
    if (entryKind === kind.compressed) {
      return allocated !== 0 || zero !== 0 ? 'is compressed and has subclusters' : undefined
    }
    if ((allocated & zero) !== 0) return 'has subclusters that are allocated and zero at once'
    const missing = entryKind === kind.unallocated && allocated !== 0
    return missing ? 'has allocated subclusters but no cluster' : undefined
  }

  #compressedFault(high: number, low: number): string | undefined {
    if (this.external) return 'is compressed, which an image with a data file cannot have'
    // A mark is wrong there, but hides nothing.
    const offset = this.compressedOffset(high, low)
    if (offset > maxHostOffset) return `points to ${hex(offset)}, beyond 2^53`
    // The first cluster holds the header.
    return offset < this.clusterSize ? `points to ${hex(offset)}, into the header` : undefined
  }
}

export function isCopied(high: number): boolean {
  return high >= copiedHigh
}

export function isZero(low: number): boolean {
  return (low & zeroLow) !== 0
}

/** Offset of a standard cluster or an L2 table; `low` without the zero flag. */
export function offsetOf(high: number, low: number): HostOffset {
  return hostOffset((high & offsetHigh) * two32 + low)
}

/** Offset of the host cluster of a standard entry, whether it reads as zeroes or not. */
export function clusterOf(high: number, low: number): HostOffset {
  return offsetOf(high, low - (low & zeroLow))
}

/** What is wrong with an L1 entry, or undefined. */
export function l1Fault(high: number, low: number, clusterSize: number): string | undefined {
  if ((high & reservedHighL1) !== 0 || (low & 0x1ff) !== 0) return 'has reserved bits set'
  const offset = offsetOf(high, low)
  if (offset === 0) return isCopied(high) ? 'marks a table that it does not have' : undefined
  if (offset % clusterSize !== 0)
    return `points to ${hex(offset)}, not a multiple of ${clusterSize}`
  return offset > maxHostOffset ? `points to ${hex(offset)}, beyond 2^53` : undefined
}

export function highOf(view: DataView, word: number): number {
  return view.getUint32(word * entrySize)
}

export function lowOf(view: DataView, word: number): number {
  return view.getUint32(word * entrySize + 4)
}

export function setEntry(view: DataView, word: number, high: number, low: number): void {
  view.setUint32(word * entrySize, high)
  view.setUint32(word * entrySize + 4, low)
}

/** Describes a cluster that reads as zeroes and has nothing kept for it. */
export function setZeroPlain(view: DataView, index: number): void {
  setEntry(view, index, 0, zeroLow)
}

/** Has a standard cluster read as zeroes; its host cluster is kept. */
export function setZeroFlag(view: DataView, index: number): void {
  setEntry(view, index, highOf(view, index), lowOf(view, index) | zeroLow)
}

/** Points an entry at a cluster or table whose refcount is one. */
export function setCopied(view: DataView, index: number, offset: HostOffset): void {
  setEntry(view, index, copiedHigh + Math.floor(offset / two32), offset % two32)
}

/** Points an entry at a cluster that is shared, or whose refcount is not known to be one. */
export function setShared(view: DataView, index: number, offset: HostOffset): void {
  setEntry(view, index, Math.floor(offset / two32), offset % two32)
}

/** The offset that an entry of a refcount or bitmap table holds, flags in bits 0 to 8 included. */
export function rawOf(view: DataView, index: number): number {
  return highOf(view, index) * two32 + lowOf(view, index)
}

/**
 * How many entries from `index` on, at most `limit`, are `high` and `low`, raised by `step` from
 * one to the next: the cluster size for a contiguous run, 0 for entries that are all the same.
 */
export function countRun(
  view: DataView,
  index: number,
  limit: number,
  high: number,
  low: number,
  step: number,
): number {
  let count = 0
  for (; count < limit; count++) {
    const at = (index + count) * entrySize
    if (view.getUint32(at + 4) !== low || view.getUint32(at) !== high) break
    low += step
    if (low >= two32) {
      low -= two32
      high++
    }
  }
  return count
}

/** How many entries from `index` on, at most `limit`, are compressed. */
export function compressedRun(view: DataView, index: number, limit: number): number {
  let count = 0
  while (count < limit && (highOf(view, index + count) & compressedHigh) !== 0) count++
  return count
}
