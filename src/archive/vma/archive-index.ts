/**
 * The index that varve puts at the end of an archive: where groups of extents begin, which devices
 * each group holds, and one digest over everything. It travels in extents that hold no cluster:
 * each of their 59 slots names device 0, which every reader skips, and so offers 7 bytes.
 *
 * Its size is bounded, however large the archive: when the groups become too many, neighbours are
 * merged and from then on groups are twice as large.
 */
import { createHash, type Hash } from 'node:crypto'
import { MiB } from '../../bytes/range.ts'
import { array, bytes, struct, u32, u64 } from '../../bytes/struct.ts'
import { BlockError } from '../../errors.ts'
import { sealExtentHeader } from './extent.ts'
import { extentHeader, slotOffsets, slotsPerExtent } from './structures.ts'

/** Groups of an index. An even number, so that they can be merged in pairs. */
export const maxIndexGroups = 65_536
/** A group ends when it has this many bytes, or this many extents (of zeroes). */
const firstGroupBytes = 16 * MiB
const firstGroupExtents = 1024

/** What each index extent holds, spread over its slots. */
export const indexPage = struct('big', {
  magic: bytes(4), // 'VIDX'
  page: u32, // 0, 1, 2, …
  pages: u32,
  content: bytes(401), // of this page; the contents follow each other
})
export const indexMagic = new Uint8Array(Buffer.from('VIDX'))

/** At the start of the content. The groups follow, then zeroes. */
export const indexHead = struct('big', {
  version: u32,
  groupCount: u32,
  extentCount: u64,
  dataEnd: u64, // where the first extent of the index begins
  digest: bytes(32), // SHA-256 over the MD5s of the header and of each extent before the index
})
export const indexVersion = 1

export const indexGroup = struct('big', {
  offset: u64, // of its first extent
  extentCount: u32,
  devices: array(u32, 8), // bit n % 32 of word n / 32: device n has clusters in the group
})

const contentSize = indexPage.size - indexPage.offsets.content
export const maxIndexPages = Math.ceil(
  (indexHead.size + maxIndexGroups * indexGroup.size) / contentSize,
)

export interface ExtentGroup {
  readonly offset: number
  readonly extentCount: number
  /** Eight words of 32 bits. */
  readonly devices: readonly number[]
}

export interface ArchiveIndex {
  readonly groups: readonly ExtentGroup[]
  readonly extentCount: number
  readonly dataEnd: number
  readonly digest: Uint8Array
}

export function hasDevice(group: ExtentGroup, deviceId: number): boolean {
  return (group.devices[Math.floor(deviceId / 32)] & (1 << (deviceId % 32))) !== 0
}

interface OpenGroup {
  offset: number
  length: number
  extentCount: number
  devices: number[]
}

/** Gathers the index while the extents pass by. Both ends use it: one to write, one to compare. */
export class IndexBuilder {
  #groups: OpenGroup[] = []
  #groupBytes = firstGroupBytes
  #groupExtents = firstGroupExtents
  #end: number
  #extentCount = 0
  readonly #hash: Hash

  constructor(header: { readonly size: number; readonly md5: Uint8Array }) {
    this.#end = header.size
    this.#hash = createHash('sha256').update(header.md5)
  }

  /** Takes note of the next extent: `length` bytes with clusters of these devices. */
  add(length: number, deviceIds: Iterable<number>, md5: Uint8Array): void {
    const group = this.#groupFor(length)
    for (const id of deviceIds) group.devices[Math.floor(id / 32)] |= 1 << (id % 32)
    group.length += length
    group.extentCount++
    this.#end += length
    this.#extentCount++
    this.#hash.update(md5)
  }

  finish(): ArchiveIndex {
    return {
      groups: this.#groups.map(({ offset, extentCount, devices }) => ({
        offset,
        extentCount,
        devices: devices.map((word) => word >>> 0),
      })),
      extentCount: this.#extentCount,
      dataEnd: this.#end,
      digest: this.#hash.copy().digest(),
    }
  }

  #groupFor(length: number): OpenGroup {
    const last = this.#groups.at(-1)
    const fits =
      last && last.length + length <= this.#groupBytes && last.extentCount < this.#groupExtents
    if (fits) return last
    if (this.#groups.length === maxIndexGroups) this.#merge()
    const group = { offset: this.#end, length: 0, extentCount: 0, devices: Array(8).fill(0) }
    this.#groups.push(group)
    return group
  }

  #merge(): void {
    this.#groupBytes *= 2
    this.#groupExtents *= 2
    const before = this.#groups
    this.#groups = []
    for (let at = 0; at < before.length; at += 2) {
      const [first, second] = [before[at], before[at + 1]]
      this.#groups.push({
        offset: first.offset,
        length: first.length + second.length,
        extentCount: first.extentCount + second.extentCount,
        devices: first.devices.map((word, index) => word | second.devices[index]),
      })
    }
  }
}

/** The index as a run of extents, to be written behind the last one. */
export function encodeIndex(index: ArchiveIndex, uuid: Uint8Array): Buffer {
  const content = encodeContent(index)
  const pages = content.length / contentSize
  const encoded = Buffer.alloc(pages * extentHeader.size)
  for (let page = 0; page < pages; page++) {
    const extent = encoded.subarray(page * extentHeader.size, (page + 1) * extentHeader.size)
    const payload = indexPage.encode({
      magic: indexMagic,
      page,
      pages,
      content: content.subarray(page * contentSize, (page + 1) * contentSize),
    })
    spreadPayload(extent, payload)
    sealExtentHeader(extent, uuid)
  }
  return encoded
}

function encodeContent(index: ArchiveIndex): Buffer {
  const used = indexHead.size + index.groups.length * indexGroup.size
  const content = Buffer.alloc(Math.ceil(used / contentSize) * contentSize)
  indexHead.encodeInto(content, 0, {
    version: indexVersion,
    groupCount: index.groups.length,
    extentCount: index.extentCount,
    dataEnd: index.dataEnd,
    digest: index.digest,
  })
  for (const [number, group] of index.groups.entries()) {
    indexGroup.encodeInto(content, indexHead.size + number * indexGroup.size, {
      ...group,
      devices: [...group.devices],
    })
  }
  return content
}

/** Bytes of a slot that are free to use: all but the device, which stays 0. */
const slotPayload = [
  { at: slotOffsets.mask, length: 3 },
  { at: slotOffsets.cluster, length: 4 },
]

function* payloadRuns(): Generator<{ at: number; from: number; length: number }> {
  let from = 0
  for (let slot = 0; slot < slotsPerExtent; slot++) {
    for (const { at, length } of slotPayload) {
      yield { at: extentHeader.offsets.slots + slot * slotOffsets.size + at, from, length }
      from += length
    }
  }
}

function spreadPayload(extent: Buffer, payload: Uint8Array): void {
  for (const { at, from, length } of payloadRuns()) {
    extent.set(payload.subarray(from, from + length), at)
  }
}

function gatherPayload(extent: Uint8Array): Uint8Array {
  const payload = new Uint8Array(indexPage.size)
  for (const { at, from, length } of payloadRuns()) {
    payload.set(extent.subarray(at, at + length), from)
  }
  return payload
}

export interface IndexPage {
  readonly page: number
  readonly pages: number
  readonly content: Uint8Array
}

/** The page of the index in an extent without clusters, or undefined when it holds none. */
export function decodeIndexPage(extent: Uint8Array): IndexPage | undefined {
  const { magic, ...page } = indexPage.decode(gatherPayload(extent))
  return Buffer.compare(magic, indexMagic) === 0 ? page : undefined
}

/**
 * The index from the contents of all its pages. `start` is the offset of its first extent and
 * `dataStart` that of the first extent of the archive.
 */
export function decodeIndex(content: Buffer, dataStart: number, start: number): ArchiveIndex {
  const { version, groupCount, ...head } = indexHead.decode(content)
  const fail = (what: string) =>
    new BlockError('CORRUPT_IMAGE', `the index at byte ${start} ${what}`, { offset: start })
  if (version !== indexVersion) throw fail(`has version ${version}; only ${indexVersion} is known`)
  if (groupCount > maxIndexGroups) throw fail(`claims ${groupCount} groups`)
  const used = indexHead.size + groupCount * indexGroup.size
  if (Math.ceil(used / contentSize) * contentSize !== content.length) {
    throw fail(`has ${content.length} bytes, not what ${groupCount} groups need`)
  }
  if (head.dataEnd !== start) throw fail(`claims to begin at ${head.dataEnd}`)
  const groups = Array.from({ length: groupCount }, (_, number) =>
    indexGroup.decode(content, indexHead.size + number * indexGroup.size),
  )
  checkGroups(groups, head.extentCount, dataStart, start, fail)
  return { ...head, groups }
}

function checkGroups(
  groups: readonly ExtentGroup[],
  extentCount: number,
  dataStart: number,
  dataEnd: number,
  fail: (what: string) => BlockError,
): void {
  let extents = 0
  for (const [number, group] of groups.entries()) {
    const next = groups[number + 1]?.offset ?? dataEnd
    const room = (next - group.offset) / extentHeader.size
    if (number === 0 && group.offset !== dataStart) throw fail('does not begin with the data')
    if (group.extentCount === 0 || !(group.extentCount <= room)) {
      throw fail(`claims ${group.extentCount} extents between bytes ${group.offset} and ${next}`)
    }
    extents += group.extentCount
  }
  if (extents !== extentCount || (groups.length === 0 && dataStart !== dataEnd)) {
    throw fail(`counts ${extentCount} extents, its groups have ${extents}`)
  }
}
