/** A node, as `query-named-block-nodes` describes it. */
import { snapshotInfo } from '../block/snapshot-info.ts'
import { alignUp } from '../bytes/range.ts'
import type { Graph } from '../graph/graph.ts'
import type { BlockNode } from '../graph/node.ts'
import { shownFilename } from '../graph/shown-filename.ts'
import { backingOf, filteredChild } from '../graph/status.ts'
import { snapshotInfoList } from './schema/snapshot-types.ts'
import {
  any,
  bool,
  enumeration,
  int,
  list,
  object,
  optional,
  required,
  str,
  uint32,
  type Value,
} from './schema/types.ts'

/** QEMU counts the size of a disk in sectors, rounded up. */
const sectorSize = 512

const cacheInfo = object('BlockdevCacheInfo', {
  writeback: required(bool, 'True: writes may be cached until a flush.'),
  direct: required(bool, 'Whether the page cache is bypassed.'),
  'no-flush': required(bool, 'Whether flushes are ignored.'),
})

const imageInfo = object('ImageInfo', {
  filename: required(str, 'What opens it again.'),
  format: required(str, 'Its driver.'),
  'virtual-size': required(int, 'Bytes that a guest sees, in whole sectors.'),
  'actual-size': optional(int, 'Bytes that it takes on its storage.'),
  'cluster-size': optional(int, 'Bytes of its unit of allocation.'),
  encrypted: optional(bool, 'Whether it is encrypted, if it is.'),
  'dirty-flag': optional(bool, 'Whether it was not closed cleanly.'),
  'backing-filename': optional(str, 'The backing file as the image names it.'),
  'full-backing-filename': optional(str, 'The same, relative to where we are.'),
  'backing-filename-format': optional(str, "The backing file's format as the image names it."),
  snapshots: optional(snapshotInfoList, 'The internal snapshots, if there are any.'),
  'backing-image': optional(any, 'The same about the backing file; not with `flat`.'),
  'format-specific': optional(any, "`{type, data}`: the format's own facts."),
})

const dirtyInfo = object('BlockDirtyInfo', {
  name: optional(str, 'Its name.'),
  count: required(int, 'Bytes that are dirty.'),
  granularity: required(uint32, 'Bytes that a bit stands for.'),
  recording: required(bool, 'Whether changes are recorded.'),
  busy: required(bool, 'Whether an operation works with it, so that nobody else may.'),
  persistent: required(bool, 'Whether it is kept in the image.'),
  inconsistent: optional(bool, 'A crash has left it in use: it can only be removed.'),
})

const noLimit = required(int, '0: there are no limits of this kind.')

export const namedNodeInfo = object('BlockDeviceInfo', {
  file: required(str, 'What opens it again.'),
  'node-name': optional(str, 'Its name.'),
  ro: required(bool, 'Whether it is read-only.'),
  drv: required(str, 'Its driver.'),
  backing_file: optional(str, 'The backing file.'),
  backing_file_depth: required(int, 'Images below it in its chain.'),
  encrypted: required(bool, 'Whether it is encrypted.'),
  detect_zeroes: required(
    enumeration('BlockdevDetectZeroesOptions', ['off', 'on', 'unmap']),
    'As it was opened.',
  ),
  bps: noLimit,
  bps_rd: noLimit,
  bps_wr: noLimit,
  iops: noLimit,
  iops_rd: noLimit,
  iops_wr: noLimit,
  image: required(imageInfo, 'The image.'),
  cache: required(cacheInfo, 'How it is cached.'),
  'dirty-bitmaps': optional(list(dirtyInfo), 'Its dirty bitmaps, the newest first.'),
  write_threshold: noLimit,
})

export async function nodeInfo(node: BlockNode, { flat }: { readonly flat: boolean }) {
  const chain = backingChain(node)
  const filename = shownFilename(node)
  return {
    file: filename,
    'node-name': node.name,
    ro: node.flags.readOnly,
    drv: node.driver,
    backing_file: node.children.has('backing') ? shownFilename(chain[0]) : undefined,
    backing_file_depth: flat ? 0 : chain.length,
    encrypted: node.layer.image?.encrypted ?? false,
    detect_zeroes: node.detectZeroes,
    bps: 0,
    bps_rd: 0,
    bps_wr: 0,
    iops: 0,
    iops_rd: 0,
    iops_wr: 0,
    image: await describeImages(node, flat ? [] : chain),
    'dirty-bitmaps': describeBitmaps(node),
    cache: { writeback: true, direct: node.flags.direct, 'no-flush': node.flags.noFlush },
    write_threshold: node.writeThreshold,
  }
}

/** Nothing where there are none. */
function describeBitmaps(node: BlockNode): Value<typeof dirtyInfo>[] | undefined {
  const infos = [...node.bitmaps].map((bitmap) => ({
    name: bitmap.name,
    recording: bitmap.enabled,
    persistent: bitmap.persistent,
    busy: bitmap.busy !== undefined,
    granularity: bitmap.granularity,
    count: bitmap.count,
    inconsistent: bitmap.inconsistent ? true : undefined,
  }))
  return infos.length > 0 ? infos : undefined
}

function backingChain(node: BlockNode): BlockNode[] {
  const chain: BlockNode[] = []
  for (let below = backingOf(node); below; below = backingOf(below)) chain.push(below)
  return chain
}

/** The image with those below it inside one another. */
async function describeImages(
  node: BlockNode,
  chain: readonly BlockNode[],
): Promise<Value<typeof imageInfo>> {
  const [below, ...rest] = chain
  const { image, backingLink } = node.layer
  const recorded = backingLink?.recorded
  const informant = informantOf(node)
  const keeper = snapshotKeeper(node)
  const snapshots = (await keeper?.layer.image?.snapshots?.()) ?? []
  return {
    filename: shownFilename(node),
    format: node.driver,
    'virtual-size': alignUp(node.size, sectorSize),
    'actual-size': await image?.allocatedSize?.(),
    'cluster-size': informant?.layer.image?.clusterSize,
    encrypted: node.layer.image?.encrypted ? true : undefined,
    'dirty-flag': informant && (informant.layer.image?.dirty ?? false),
    'backing-filename': recorded?.filename,
    'full-backing-filename': recorded && below ? shownFilename(below) : recorded?.filename,
    'backing-filename-format': recorded?.format,
    'format-specific': informant === node ? image?.specific?.() : undefined,
    snapshots: snapshots.length > 0 ? snapshots.map(snapshotInfo) : undefined,
    'backing-image': below && (await describeImages(below, rest)),
  }
}

/** Whose internal snapshots are the node's: those of the one child that it shows. */
function snapshotKeeper(node: BlockNode): BlockNode | undefined {
  const below = filteredChild(node) ?? (node.driver === 'raw' ? fileOf(node) : undefined)
  if (!below) return node
  return node.children.size === 1 ? snapshotKeeper(below) : undefined
}

/** Drivers that know no facts about an image, and ask none of their children for them. */
const ignorant = new Set(['null-co', 'null-aio', 'quorum', 'snapshot-access'])

/** Whose facts `query-named-block-nodes` tells of a node: those of what filters and `raw` stand on. */
function informantOf(node: BlockNode): BlockNode | undefined {
  if (ignorant.has(node.driver)) return undefined
  const below = filteredChild(node) ?? (node.driver === 'raw' ? fileOf(node) : undefined)
  return below ? informantOf(below) : node
}

function fileOf(node: BlockNode): BlockNode | undefined {
  return node.children.get('file')?.node
}

export function oldestFirst(nodes: Graph['nodes']): BlockNode[] {
  return [...nodes.values()].sort((one, other) => one.age - other.age)
}
