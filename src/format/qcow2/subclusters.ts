/**
 * The second word of an extended L2 entry: two bits for each of the 32 subclusters of a cluster. A
 * subcluster is allocated (its data is in the host cluster), or reads as zeroes, or neither: then
 * the backing file decides. Subcluster 0 is the lowest bit of both halves.
 */

export const subclusterCount = 32

/** Extended entries exist only for clusters of this size and more: subclusters are no sectors' parts. */
export const minExtendedClusterBits = 14

const entrySize = 16
const all = 0xffffffff

/** Bit x: subcluster x is allocated. */
export function allocatedOf(view: DataView, index: number): number {
  return view.getUint32(index * entrySize + 12)
}

/** Bit x: subcluster x reads as zeroes. */
export function zeroOf(view: DataView, index: number): number {
  return view.getUint32(index * entrySize + 8)
}

export function setSubclusters(
  view: DataView,
  index: number,
  allocated: number,
  zero: number,
): void {
  view.setUint32(index * entrySize + 8, zero)
  view.setUint32(index * entrySize + 12, allocated)
}

/** The bits of subclusters from `first` up to, not including, `end`. */
export function maskOf(first: number, end: number): number {
  if (end <= first) return 0
  const upTo = end >= subclusterCount ? all : 2 ** end - 1
  return (upTo - (2 ** first - 1)) >>> 0
}

/** How many subclusters from `first` on have the same two bits. */
export function sameStatus(allocated: number, zero: number, first: number): number {
  const mask = 2 ** first
  const unlikeAllocated = (allocated & mask) !== 0 ? ~allocated : allocated
  const unlikeZero = (zero & mask) !== 0 ? ~zero : zero
  const unlike = (unlikeAllocated | unlikeZero) >>> first
  return unlike === 0 ? subclusterCount - first : lowestBit(unlike)
}

/** Number of the lowest bit that is set; 32 where none is. */
export function lowestBit(bits: number): number {
  return bits === 0 ? subclusterCount : 31 - Math.clz32(bits & -bits)
}

/** Number behind the highest bit that is set; 0 where none is. */
export function highestBit(bits: number): number {
  return subclusterCount - Math.clz32(bits)
}
