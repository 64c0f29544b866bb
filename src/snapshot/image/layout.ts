/**
 * Where things lie in a snapshot image, which is that of qemu-snap: RAM blocks are the disk, one
 * behind the other in the order of the stream's list, each at a multiple of 1 MiB; all else lies
 * in the area for VM state, behind the end of the disk.
 */
import { alignUp, MiB } from '../../bytes/range.ts'
import { struct, u32, u64 } from '../../bytes/struct.ts'
import type { RamBlock } from '../stream/ram-list.ts'

export interface PlacedBlock extends RamBlock {
  /** Of the block's first byte, on the disk. */
  readonly base: number
}

export const blockAlignment: number = MiB

export function placeBlocks(blocks: readonly RamBlock[]): PlacedBlock[] {
  let end = 0
  return blocks.map((block) => {
    const base = alignUp(end, blockAlignment)
    end = base + block.usedLength
    return { ...block, base }
  })
}

/** Bytes of the disk that blocks need. */
export function endOf(blocks: readonly PlacedBlock[]): number {
  const last = blocks.at(-1)
  return last ? last.base + last.usedLength : 0
}

/** The first bytes of the area for VM state. Offsets count from behind it. */
export const stateHeader = struct('big', {
  magic: u32,
  pageSize: u32,
  /** Pages that are not zero. */
  normalPages: u64,
  /** Of the section with the list of RAM blocks. */
  ramListOffset: u32,
  /** Of the first section behind RAM: the length of what comes before RAM. */
  deviceOffset: u32,
  /** Of the end. Written last: 0 is an image that was never completed. */
  eofOffset: u32,
})

/** "STVM" */
export const stateMagic = 0x5354564d

/** What is in front of RAM, at most: qemu-snap looks for it within 28 KiB. */
export const maxLeaderBytes: number = 64 * MiB
