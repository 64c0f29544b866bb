/**
 * Where blocks of RAM lie among a guest's physical addresses. The stream does not say, unless the
 * source had `x-ignore-shared`; but PCs have it all at 0, apart from what a hole below 4 GiB
 * pushes above.
 */

import { GiB } from '../../bytes/range.ts'
import { BlockError } from '../../errors.ts'
import type { PlacedBlock } from '../image/layout.ts'
import type { SnapshotReader } from '../image/snapshot-reader.ts'

export interface MemoryRegion {
  readonly guestAddress: number
  readonly length: number
  /** Of its first byte, on the disk of the snapshot. */
  readonly offset: number
}

const fourGiB = 4 * GiB

/** Below this much RAM nothing is pushed above 4 GiB; from it on, this much stays below. */
const splits: Readonly<Record<'i440fx' | 'q35', { from: number; below: number }>> = {
  i440fx: { from: 0xe0000000, below: 0xc0000000 },
  q35: { from: 0xb0000000, below: 0x80000000 },
}

/** In ascending order. `below4G` overrides what is known of the machine. */
export function memoryRegions(snapshot: SnapshotReader, below4G?: number): MemoryRegion[] {
  const told = snapshot.blocks.filter(({ guestAddress }) => isAddress(guestAddress))
  if (told.length > 0) {
    return told
      .map(({ guestAddress = 0, usedLength, base }) => {
        return { guestAddress, length: usedLength, offset: base }
      })
      .sort((a, b) => a.guestAddress - b.guestAddress)
  }
  const blocks = mainBlocks(snapshot)
  const total = blocks.reduce((sum, { usedLength }) => sum + usedLength, 0)
  const low = Math.min(total, below4G ?? lowMemory(snapshot, total))
  return [...cut(blocks, 0, low, 0), ...cut(blocks, low, total, fourGiB)]
}

/** The block called after the machine's RAM, or those of its NUMA nodes, or else the largest. */
export function mainBlocks({ blocks }: SnapshotReader): readonly PlacedBlock[] {
  const named = blocks.filter(({ name }) => name === 'pc.ram')
  if (named.length > 0) return named
  const nodes = blocks.filter(({ name }) => /^ram-node\d+$/.test(name))
  if (nodes.length > 0) return nodes
  return blocks.toSorted((a, b) => b.usedLength - a.usedLength).slice(0, 1)
}

function lowMemory({ parts, name }: SnapshotReader, total: number): number {
  const kind = /^pc-(i440fx|q35)/.exec(parts.machine)?.[1] as keyof typeof splits | undefined
  if (!kind) {
    throw new BlockError(
      'UNSUPPORTED',
      `${name}: how RAM lies in a machine '${parts.machine}' is not known; --below-4g tells`,
    )
  }
  const { from, below } = splits[kind]
  return total >= from ? below : total
}

/** Bytes [`start`, `end`) of blocks one behind the other, at an address and on. */
function* cut(
  blocks: readonly PlacedBlock[],
  start: number,
  end: number,
  address: number,
): Generator<MemoryRegion> {
  let at = 0
  for (const { base, usedLength } of blocks) {
    const from = Math.max(start, at)
    const to = Math.min(end, at + usedLength)
    if (to > from) {
      yield { guestAddress: address + from - start, length: to - from, offset: base + from - at }
    }
    at += usedLength
  }
}

/** Blocks that are not mapped have all bits set. */
function isAddress(value: number | undefined): value is number {
  return value !== undefined && value < 2 ** 52
}
