/**
 * Largest things accepted from an image. What the specification leaves open is as QEMU has it, so
 * that the two accept the same images.
 */
import { KiB, MiB } from '../../bytes/range.ts'

export const minClusterBits = 9
export const maxClusterBits = 21

/** Bytes of one L1 table, the active one or a snapshot's. */
export const maxL1Bytes = 32 * MiB
/** Bytes of the refcount table. */
export const maxRefcountTableBytes = 8 * MiB
/** Refcounts are 2^order bits wide. */
export const maxRefcountOrder = 6

export const maxBackingNameBytes = 1023

export const maxSnapshots = 65_536
/** Bytes of the snapshot table. */
export const maxSnapshotTableBytes = 64 * MiB
/** Bytes of the name, and of the id, of a new snapshot. */
export const maxSnapshotNameBytes = 255
/** Bytes of extra data in one snapshot's entry. */
export const maxSnapshotExtraBytes = KiB

export const maxBitmaps = 65_535
/** Bytes of the bitmap directory. */
export const maxBitmapDirectoryBytes = maxBitmaps * KiB
/** Bytes of one bitmap's table. */
export const maxBitmapTableBytes = 64 * MiB
/** Bytes of the bits of one bitmap, those that are not stored included. */
export const maxBitmapBytes = 512 * MiB
export const maxBitmapNameBytes = 1023

/** Host offsets have 56 bits in the format; ours have to stay safe integers as well. */
export const maxHostOffset = 2 ** 53 - 2 ** 32
