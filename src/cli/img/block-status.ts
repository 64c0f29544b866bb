/** Status of a run as `map` shows and `compare` compares it: QEMU's terms. */
import type { BlockLayer, Extent, HostRange } from '../../block/layer.ts'
import { plainIo } from '../../block/layer.ts'
import { alignUp } from '../../bytes/range.ts'
import type { BlockNode } from '../../graph/node.ts'
import { backingOf } from '../../graph/status.ts'

/** QEMU counts disks in sectors. */
const sectorSize = 512

export interface BlockStatus {
  readonly start: number
  readonly length: number
  /** Which image of the chain decides; 0 is the top. */
  readonly depth: number
  /** That image decides by an entry of its own, be it one that says zeroes. */
  readonly present: boolean
  readonly zero: boolean
  readonly data: boolean
  readonly encoded: boolean
  /** Where the bytes lie in their file, where they exist as plain bytes. */
  readonly offset?: number
  readonly filename?: string
}

/** Size of a disk in bytes, the last sector counted whole. */
export function diskSize(node: BlockNode): number {
  return alignUp(node.size, sectorSize)
}

/** The first run at `start`, which is inside `diskSize(node)`; `length` > 0. */
export async function blockStatus(
  node: BlockNode,
  start: number,
  length: number,
): Promise<BlockStatus> {
  let left = length
  let image = node
  for (let depth = 0; ; depth++) {
    if (start >= image.size) return behindEnd(image, start, left, depth)
    const inside = Math.min(left, image.size - start)
    const run = await image.extentAt(start, inside, plainIo)
    left = Math.min(inside, run.length)
    if (run.kind !== 'backing') return await describe(placed(run, image), left, depth)
    const backing = backingOf(image)
    if (!backing || start >= diskSize(backing)) {
      // What cannot have a backing file does not say that it reads as zeroes.
      const zero = backing !== undefined || image.layer.capabilities.backing
      const status = { start, length: left, depth, present: false, zero, data: false }
      return { ...status, encoded: false, ...placeOf(run) }
    }
    left = Math.min(left, diskSize(backing) - start)
    image = backing
  }
}

/** What a file itself has lies in it where it is asked for. */
function placed<Run extends Extent>(run: Run, { driver, layer }: BlockNode): Run {
  const ofFile = driver === 'file' || driver === 'host_device'
  if (!ofFile || run.kind === 'encoded') return run
  const { offset, length } = run
  return { ...run, host: { layer, offset, length, writable: false } }
}

/** The rest of the last sector of a file that ends within it. */
function behindEnd(node: BlockNode, start: number, length: number, depth: number): BlockStatus {
  const status = { start, length, depth, present: true, zero: true, data: false, encoded: false }
  return { ...status, offset: start, filename: node.layer.image?.filename }
}

async function describe(
  run: Exclude<Extent, { kind: 'backing' }>,
  length: number,
  depth: number,
): Promise<BlockStatus> {
  const status = { start: run.offset, length, depth, present: true }
  if (run.kind === 'encoded') return { ...status, zero: false, data: true, encoded: true }
  const place = placeOf(run)
  if (run.kind === 'zero') {
    return { ...status, zero: true, data: false, encoded: false, ...place }
  }
  const found = { ...status, zero: false, data: true, encoded: false, ...place }
  if (!run.host?.sparse) return found
  // Preallocated: only the storage knows whether anything has been written there.
  const { layer, offset } = run.host
  const inside = Math.min(length, layer.size - offset)
  if (inside <= 0) return { ...found, zero: true }
  const below = await layer.extentAt(offset, inside, plainIo)
  return { ...found, length: Math.min(inside, below.length), zero: below.kind === 'zero' }
}

function placeOf({ host }: { readonly host?: HostRange }) {
  return host && { offset: host.offset, filename: fileOf(host.layer) }
}

function fileOf(layer: BlockLayer): string | undefined {
  return layer.image?.filename
}
