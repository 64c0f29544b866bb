/**
 * How large an image will be: the least that a file has to have for the data of a source, and the
 * most that the image can come to. Counted as QEMU lays images out; only options that change the
 * sum are looked at.
 */

import type { StoredBitmap } from '../../block/abilities.ts'
import type { MeasuredSource, Measurement } from '../../block/driver.ts'
import type { Io } from '../../block/layer.ts'
import { OptionReader } from '../../block/options.ts'
import { alignUp, isPowerOfTwo, KiB } from '../../bytes/range.ts'
import { payloadOffsetOf } from '../../crypto/luks/slot-layout.ts'
import { invalid } from '../../errors.ts'
import { entryLength } from './bitmap-directory.ts'
import { parseEncryption } from './encryption/create.ts'
import { keyRequired } from './encryption/encryption.ts'
import { entrySize } from './l2-table.ts'
import { maxClusterBits, maxL1Bytes, minClusterBits } from './limits.ts'
import { subclusterCount } from './subclusters.ts'

interface Shape {
  readonly version: 2 | 3
  readonly clusterSize: number
  /** Bytes of an L2 entry. */
  readonly l2EntryBytes: number
  readonly refcountBits: number
  /** Bytes of key material, which QEMU does not count with the refcounts. */
  readonly keyBytes: number
  /** All clusters count as data. */
  readonly allocated: boolean
}

export async function measureImage(
  options: Readonly<Record<string, unknown>>,
  source: MeasuredSource,
  io: Io,
): Promise<Measurement> {
  const shape = parseShape(options, source)
  const size = alignUp(source.size, shape.clusterSize)
  const fullyAllocated = size + metadataBytes(size, shape) + shape.keyBytes
  const data = await dataBytes(source, size, shape, io)
  const required = fullyAllocated - size + data
  const { bitmaps } = source
  if (shape.version < 3 || bitmaps === undefined) return { required, fullyAllocated }
  return { required, fullyAllocated, bitmaps: bitmapBytes(bitmaps, source.size, shape) }
}

/** Header, tables and refcounts of an image in which every cluster is allocated. */
function metadataBytes(size: number, { clusterSize, l2EntryBytes, refcountBits }: Shape): number {
  const l2Bytes = alignUp((size / clusterSize) * l2EntryBytes, clusterSize)
  const l1Entries = l2Bytes / clusterSize
  if (l1Entries * entrySize > maxL1Bytes) {
    throw invalid('The image size is too large (try using a larger cluster size)')
  }
  const tables = clusterSize + l2Bytes + alignUp(l1Entries * entrySize, clusterSize)
  const counted = (tables + size) / clusterSize
  return tables + refcountClusters(counted, clusterSize, refcountBits) * clusterSize
}

/** The refcount table and blocks that `clusters` need, which count themselves too. */
function refcountClusters(clusters: number, clusterSize: number, refcountBits: number): number {
  const perBlock = (clusterSize * 8) / refcountBits
  let own = 0
  for (;;) {
    const blocks = Math.ceil((clusters + own) / perBlock)
    const needed = blocks + Math.ceil((blocks * entrySize) / clusterSize)
    if (needed === own) return own
    own = needed
  }
}

/** Bytes of the clusters that have to have space from the beginning. */
async function dataBytes(
  { data = [] }: MeasuredSource,
  size: number,
  { clusterSize, allocated }: Shape,
  io: Io,
): Promise<number> {
  if (allocated) return size
  let bytes = 0
  // Behind the last cluster that has been counted.
  let end = 0
  for await (const { offset, length } of data) {
    io.signal.throwIfAborted()
    const first = Math.max(end, offset - (offset % clusterSize))
    const next = alignUp(offset + length, clusterSize)
    if (next <= first) continue
    bytes += next - first
    end = next
  }
  return bytes
}

/** Their bits, tables and directory, each in clusters of its own. */
function bitmapBytes(
  bitmaps: readonly StoredBitmap[],
  size: number,
  { clusterSize }: Shape,
): number {
  let bytes = 0
  let directory = 0
  for (const { name, granularity, inUse } of bitmaps) {
    if (inUse) continue
    const bits = Math.ceil(size / granularity)
    const clusters = Math.ceil(Math.ceil(bits / 8) / clusterSize)
    bytes += clusters * clusterSize + alignUp(clusters * entrySize, clusterSize)
    directory += entryLength(name)
  }
  return bytes + alignUp(directory, clusterSize)
}

const needsV3 = 'require compatibility level 1.1 or above (use compat=1.1 or greater)'
const minExtendedClusterSize = 16 * KiB

function parseShape(options: Readonly<Record<string, unknown>>, { data }: MeasuredSource): Shape {
  const reader = new OptionReader(options)
  const extended = reader.boolean('extended_l2') ?? false
  const clusterSize = parseClusterSize(reader, extended)
  const version = parseVersion(reader.string('compat') ?? '1.1')
  const refcountBits = reader.integer('refcount_bits') ?? 16
  if (!isPowerOfTwo(refcountBits) || refcountBits > 64) {
    throw invalid('Refcount width must be a power of two and may not exceed 64 bits')
  }
  if (version < 3 && refcountBits !== 16) {
    throw invalid(`Different refcount widths than 16 bits ${needsV3}`)
  }
  const preallocation = reader.string('preallocation') ?? 'off'
  if (!['off', 'metadata', 'falloc', 'full'].includes(preallocation)) {
    throw invalid(`invalid parameter value: ${preallocation}`)
  }
  return {
    version,
    clusterSize,
    l2EntryBytes: extended ? 2 * entrySize : entrySize,
    refcountBits,
    keyBytes: alignUp(keyBytesOf(reader), clusterSize),
    // What a source has in common with the backing file is not known.
    allocated:
      preallocation === 'falloc' ||
      preallocation === 'full' ||
      (data !== undefined && options.backing_file !== undefined),
  }
}

function keyBytesOf(reader: OptionReader): number {
  // Only LUKS takes room; what else is said of encryption is not looked at.
  if (reader.take('encrypt.format') !== 'luks') return 0
  const luks = Object.fromEntries(
    [...reader.left()]
      .filter((name) => name.startsWith('encrypt.'))
      .map((name) => [name, reader.take(name)]),
  )
  const encryption = parseEncryption(new OptionReader(luks), 'luks')
  if (encryption?.keySecret === undefined) throw keyRequired()
  return encryption?.luks ? payloadOffsetOf(encryption.luks.spec) : 0
}

/** The names `v2` and `v3`, which making an image takes, are not taken here. */
function parseVersion(compat: string): 2 | 3 {
  if (compat === '0.10') return 2
  if (compat === '1.1') return 3
  throw invalid(`Invalid compatibility level: '${compat}'`)
}

function parseClusterSize(reader: OptionReader, extended: boolean): number {
  const size = reader.bytes('cluster_size') ?? 64 * KiB
  if (!isPowerOfTwo(size) || size < 2 ** minClusterBits || size > 2 ** maxClusterBits) {
    throw invalid('Cluster size must be a power of two between 512 and 2048k')
  }
  if (extended && size < minExtendedClusterSize) {
    throw invalid(
      `Extended L2 entries are only supported with cluster sizes of at least ${subclusterCount * 512} bytes`,
    )
  }
  return size
}
