/** What differs between two snapshots of one guest. */

import type { ByteRange } from '../../bytes/range.ts'
import { BlockError } from '../../errors.ts'
import type { SnapshotReader } from './snapshot-reader.ts'

export interface BlockDifference {
  readonly name: string
  /** Bytes in the block, runs of pages that differ. */
  readonly ranges: readonly ByteRange[]
  readonly pages: number
}

export interface SnapshotDifference {
  readonly pageSize: number
  /** Blocks of which pages differ, or which only one of the snapshots has. */
  readonly blocks: readonly BlockDifference[]
  /** Names of devices whose states differ, or which only one has. */
  readonly devices: readonly string[]
}

/** Read at a time. */
const pieceLength = 1024 * 1024

export async function compareSnapshots(
  one: SnapshotReader,
  other: SnapshotReader,
): Promise<SnapshotDifference> {
  if (one.pageSize !== other.pageSize) {
    throw new BlockError('INVALID_ARGUMENT', 'the snapshots have pages of different sizes')
  }
  const blocks: BlockDifference[] = []
  const names = new Set([...one.blocks, ...other.blocks].map(({ name }) => name))
  for (const name of names) {
    const ranges = await differingRanges(one, other, name)
    const bytes = ranges.reduce((sum, { length }) => sum + length, 0)
    if (bytes > 0) blocks.push({ name, ranges, pages: bytes / one.pageSize })
  }
  return { pageSize: one.pageSize, blocks, devices: differingDevices(one, other) }
}

async function differingRanges(
  one: SnapshotReader,
  other: SnapshotReader,
  name: string,
): Promise<ByteRange[]> {
  const a = one.blocks.find((block) => block.name === name)
  const b = other.blocks.find((block) => block.name === name)
  if (!a || !b) return [{ offset: 0, length: (a ?? b)?.usedLength ?? 0 }]
  const common = Math.min(a.usedLength, b.usedLength)
  const longer = Math.max(a.usedLength, b.usedLength)
  const ranges: { offset: number; length: number }[] = []
  const add = (offset: number, length: number) => {
    const last = ranges.at(-1)
    if (last && last.offset + last.length === offset) last.length += length
    else ranges.push({ offset, length })
  }
  const pageSize = one.pageSize
  const left = new Uint8Array(pieceLength)
  const right = new Uint8Array(pieceLength)
  for (let at = 0; at < common; at += pieceLength) {
    const length = Math.min(pieceLength, common - at)
    await one.prepare(a.base + at, length)
    await other.prepare(b.base + at, length)
    if (sameSums(one, a.base + at, other, b.base + at, length)) continue
    await one.read(a.base + at, left.subarray(0, length))
    await other.read(b.base + at, right.subarray(0, length))
    for (let page = 0; page < length; page += pageSize) {
      const end = page + pageSize
      if (Buffer.compare(left.subarray(page, end), right.subarray(page, end)) !== 0) {
        add(at + page, pageSize)
      }
    }
  }
  if (longer > common) add(common, longer - common)
  return ranges
}

/** Pages of equal sums may differ, once in 2^32: only those of both being zero need no look. */
function sameSums(
  one: SnapshotReader,
  oneOffset: number,
  other: SnapshotReader,
  otherOffset: number,
  length: number,
): boolean {
  const { pageSize } = one
  for (let at = 0; at < length; at += pageSize) {
    if (one.isZeroPage((oneOffset + at) / pageSize) !== true) return false
    if (other.isZeroPage((otherOffset + at) / pageSize) !== true) return false
  }
  return true
}

function differingDevices(one: SnapshotReader, other: SnapshotReader): string[] {
  const statesOf = ({ parts }: SnapshotReader) =>
    new Map([...parts.early, ...parts.devices].map((device) => [labelOf(device), device.body]))
  const a = statesOf(one)
  const b = statesOf(other)
  return [...new Set([...a.keys(), ...b.keys()])].filter((name) => {
    const [left, right] = [a.get(name), b.get(name)]
    return !left || !right || Buffer.compare(left, right) !== 0
  })
}

function labelOf({ name, instance }: { readonly name: string; readonly instance: number }): string {
  return instance === 0 ? name : `${name}/${instance}`
}
