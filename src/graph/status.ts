/** What a guest reads at an offset, and which image of a chain says so. */
import { type Extent, type HostRange, type Io, plainIo } from '../block/layer.ts'
import type { BlockNode } from './node.ts'

/** A run of what a guest sees: the chain of backing files followed to its end. */
export interface ChainExtent {
  readonly offset: number
  readonly length: number
  /** Whether an image stores bytes for it. */
  readonly data: boolean
  /** Whether it is known to read as zeroes, stored or not. */
  readonly zero: boolean
  /** Compressed or encrypted in its image. */
  readonly encoded: boolean
  /** Whether any image of the chain has it allocated; 0 is the top. Undefined: nobody has. */
  readonly depth?: number
  /** Where the bytes lie, in storage of the image at `depth`. */
  readonly host?: HostRange
}

/**
 * The first run at `offset` seen through `node` and its backing files, down to but without `base`.
 * Holes that only the storage knows about (a sparse raw file) count as zeroes.
 */
export async function chainExtentAt(
  node: BlockNode,
  offset: number,
  length: number,
  io: Io = plainIo,
  base?: BlockNode,
): Promise<ChainExtent> {
  let at: BlockNode | undefined = node
  let left = length
  for (let depth = 0; at && at !== base; depth++) {
    if (offset >= at.size) {
      // The overlay is longer than this image: zeroes that this image's end accounts for.
      return { offset, length: left, data: false, zero: true, encoded: false, depth }
    }
    const inside = Math.min(left, at.size - offset)
    const run: Extent = await at.extentAt(offset, inside, io)
    left = Math.min(inside, run.length)
    if (run.kind !== 'backing') return await storageStatus(run, left, depth, io)
    const below = backingOf(at)
    if (!below && !at.layer.capabilities.backing) {
      // What cannot have a backing file does not say that it reads as zeroes.
      return { offset, length: left, data: false, zero: false, encoded: false }
    }
    at = below
  }
  return { offset, length: left, data: false, zero: true, encoded: false }
}

/** The backing file of a node, looked for through filters. */
export function backingOf(node: BlockNode): BlockNode | undefined {
  const filtered = filteredChild(node)
  return filtered ? backingOf(filtered) : node.children.get('backing')?.node
}

/** The child whose data a filter (or the raw format) shows; undefined for all other nodes. */
export function filteredChild(node: BlockNode): BlockNode | undefined {
  for (const edge of node.children.values()) if (edge.role === 'filtered') return edge.node
  return undefined
}

async function storageStatus(
  run: Exclude<Extent, { kind: 'backing' }>,
  length: number,
  depth: number,
  io: Io,
): Promise<ChainExtent> {
  const { offset } = run
  if (run.kind === 'encoded') {
    return { offset, length, data: true, zero: false, encoded: true, depth }
  }
  const host = run.host && { ...run.host, length }
  if (run.kind === 'zero') {
    return { offset, length, data: false, zero: true, encoded: false, depth, host }
  }
  if (!host?.sparse) {
    return { offset, length, data: true, zero: false, encoded: false, depth, host }
  }
  return await holeStatus(offset, host, depth, io)
}

/** Asks the storage below whether the bytes are a hole. */
async function holeStatus(
  offset: number,
  host: HostRange,
  depth: number,
  io: Io,
): Promise<ChainExtent> {
  const inside = Math.min(host.length, host.layer.size - host.offset)
  if (inside <= 0) {
    return { offset, length: host.length, data: true, zero: true, encoded: false, depth, host }
  }
  const below = await host.layer.extentAt(host.offset, inside, io)
  const length = Math.min(inside, below.length)
  const zero = below.kind === 'zero'
  return { offset, length, data: true, zero, encoded: false, depth, host: { ...host, length } }
}
