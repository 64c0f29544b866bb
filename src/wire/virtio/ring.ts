/**
 * A split virtqueue (virtio 1.1, 2.6): a table of descriptors, a ring of those that the driver has made
 * available, a ring of those that the device has used. Little-endian.
 */

/** Flags of a descriptor. */
export const descriptorFlag = { next: 1, write: 2, indirect: 4 } as const

/** Of the available ring: the driver does not want to be told. */
export const availNoInterrupt = 1

/** `struct virtq_desc`: address, length, flags, next. */
export const descriptor = { size: 16, length: 8, flags: 12, next: 14 } as const

/** `struct virtq_avail`: flags, idx, then a ring of u16, then `used_event`. */
export const availRing = { index: 2, ring: 4, entry: 2 } as const

/** `struct virtq_used`: flags, idx, then a ring of id and length, then `avail_event`. */
export const usedRing = { index: 2, ring: 4, entry: 8 } as const

/** Bits of features that are the ring's. */
export const ringFeature = {
  notifyOnEmpty: 24,
  indirectDescriptors: 28,
  eventIndex: 29,
  version1: 32,
} as const

export function availRingLength(size: number): number {
  return availRing.ring + availRing.entry * size + 2
}

export function usedRingLength(size: number): number {
  return usedRing.ring + usedRing.entry * size + 2
}

/**
 * Whether somebody who wants to be told when the index passes `event` is told, now that it has gone from
 * `before` to `after` (virtio 1.1, 2.6.7.2).
 */
export function passesEvent(event: number, after: number, before: number): boolean {
  return wrap(after - event - 1) < wrap(after - before)
}

/** Indices of rings have 16 bits. */
export function wrap(index: number): number {
  return index & 0xffff
}
