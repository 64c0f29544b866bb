/**
 * Arithmetic on offsets and lengths. They are plain numbers, safe up to 2^53, so nothing here
 * uses the bit operators: those truncate to 32 bits.
 */

export interface ByteRange {
  readonly offset: number
  readonly length: number
}

/** Largest disk size that is accepted: offsets stay safe integers with room for rounding up. */
export const maxDiskSize = 2 ** 53 - 2 ** 32

export const KiB = 1024
export const MiB = 1024 * KiB
export const GiB = 1024 * MiB
export const TiB = 1024 * GiB

/** `value` rounded down to a multiple of `step`; any positive `step`. */
export function alignDown(value: number, step: number): number {
  return value - (value % step)
}

/** `value` rounded up to a multiple of `step`; any positive `step`. */
export function alignUp(value: number, step: number): number {
  const rest = value % step
  return rest === 0 ? value : value + (step - rest)
}

export function isAligned(value: number, step: number): boolean {
  return value % step === 0
}

/** Rounds a range outwards to multiples of `step`. */
export function alignOut(range: ByteRange, step: number): ByteRange {
  const offset = alignDown(range.offset, step)
  return { offset, length: alignUp(range.offset + range.length, step) - offset }
}

export function rangesOverlap(
  offset: number,
  length: number,
  otherOffset: number,
  otherLength: number,
): boolean {
  return offset < otherOffset + otherLength && otherOffset < offset + length
}

export function isPowerOfTwo(value: number): boolean {
  return Number.isSafeInteger(value) && value > 0 && Number.isInteger(Math.log2(value))
}
