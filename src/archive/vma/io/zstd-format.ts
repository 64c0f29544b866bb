/**
 * Zstandard's container (RFC 8878) and the seek table of its "seekable format" 0.1.0, which is a
 * skippable frame at the end of the file. All integers are little-endian.
 */
import { MiB } from '../../../bytes/range.ts'
import { struct, u8, u32 } from '../../../bytes/struct.ts'

export const zstdMagic = 0xfd2fb528
/** Sixteen values, 0x184D2A50 to 0x184D2A5F, mark frames that decoders skip. */
export const skippableMagic = 0x184d2a50
export const skippableMagics = 16
/** The one that the seek table uses. */
export const seekTableMagic = 0x184d2a5e
export const seekFooterMagic = 0x8f92eab1

export const skippableHeader = struct('little', {
  magic: u32,
  contentSize: u32,
})

export const seekEntry = struct('little', {
  compressedSize: u32,
  decompressedSize: u32,
})

/** At the very end of the file. */
export const seekFooter = struct('little', {
  frameCount: u32,
  descriptor: u8, // bit 7: entries carry a checksum of 4 bytes; bits 6 to 2 are reserved
  magic: u32,
})

/** Most frames of one file, by the seekable format. */
export const maxSeekFrames = 0x8000000

export function isSkippable(magic: number): boolean {
  return magic >= skippableMagic && magic < skippableMagic + skippableMagics
}

/** Longer tables are not used: 64 MiB name eight million frames, 30 TB of our archives. */
export const maxSeekTableSize = 64 * MiB

/** The footer of a seek table, or undefined when these bytes are none. */
export function decodeSeekFooter(
  bytes: Uint8Array,
): { readonly frameCount: number; readonly entrySize: number } | undefined {
  const { frameCount, descriptor, magic } = seekFooter.decode(bytes)
  if (magic !== seekFooterMagic || (descriptor & reservedBits) !== 0) return undefined
  return { frameCount, entrySize: seekEntrySizes[(descriptor & checksumBit) === 0 ? 0 : 1] }
}

/** Entries without and with a checksum of 4 bytes. */
export const seekEntrySizes = [seekEntry.size, seekEntry.size + 4] as const

const checksumBit = 0x80
const reservedBits = 0x7c
