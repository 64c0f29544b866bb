/** Bounds of a disk that is shown as a file. */
import { KiB, MiB } from '../../bytes/range.ts'

/** Most bytes of one read or write that the kernel sends. */
export const maxTransfer = MiB

/** Pages of a transfer; the kernel's own, of 4 KiB. */
export const maxPages = maxTransfer / (4 * KiB)

/** Where data lies in the buffer of a request: the kernel asks for so much room before a write's. */
export const dataStart = 4 * KiB

/** Requests of one mount under way, each with a buffer of 1 MiB; the kernel keeps the others. */
export const maxInFlight = 32

/** The size of a disk is shown in units of these, as QEMU does. */
export const sectorSize = 512
