/**
 * What an image needs to show the same on another backing file: clusters that it does not have, and
 * that the two backing files show differently, are copied into it. The image stays on its old
 * backing file meanwhile, so a crash changes nothing of what it shows.
 */
import { alignDown, alignUp, MiB } from '../../bytes/range.ts'
import { isZero } from '../../bytes/zero.ts'
import type { Edge } from '../../graph/edge.ts'
import type { BlockNode } from '../../graph/node.ts'
import { chainExtentAt } from '../../graph/status.ts'

const bufferLength = 2 * MiB

export interface RebaseCopy {
  /** The image, on its old backing file. */
  readonly image: Edge
  /** The new backing file; undefined where there is to be none. */
  readonly backing?: Edge
  /** Called with the parts of the disk, in buffers of QEMU's, that have been looked at. */
  readonly progress: (share: number) => void
}

export async function copyDifferences({ image, backing, progress }: RebaseCopy): Promise<void> {
  const unit = image.node.layer.image?.clusterSize ?? 65_536
  const length = alignUp(bufferLength, unit)
  const buffers = { old: new Uint8Array(length), fresh: new Uint8Array(length) }
  const { size } = image
  const share = Math.min(size, bufferLength) / size
  const looked = new Looked()
  for (let at = 0; at < size; ) {
    const extent = await image.extentAt(at, size - at)
    let run = Math.min(extent.length, size - at)
    if (extent.kind === 'backing') {
      const blank = wholeUnits(at, await bothZero(image.node, backing?.node, at, run), unit, size)
      run = blank > 0 ? blank : Math.min(run, length - (at % unit))
      if (blank === 0) await copyRun(image, backing, at, run, unit, buffers)
      for (let count = looked.at(at, at + run); count > 0; count--) progress(share)
    }
    at += run
  }
}

/**
 * As qemu-img counts: a buffer for each two MiB of what the image does not have, or less up to what it
 * has; what it has is not counted, so the work may be done early.
 */
class Looked {
  #start = 0
  #end = 0

  /** Buffers that are new with this range, which may go on where the one before ended. */
  at(start: number, end: number): number {
    if (start !== this.#end) {
      this.#start = start
      this.#end = start
    }
    const before = Math.ceil((this.#end - this.#start) / bufferLength)
    this.#end = end
    return Math.ceil((end - this.#start) / bufferLength) - before
  }
}

/**
 * What of a run is skipped: up to a boundary of clusters, or the end. Zeroes for the rest of a
 * cluster alone would not be written: it reads as zeroes now, on the old backing file.
 */
function wholeUnits(offset: number, length: number, unit: number, size: number): number {
  const end = offset + length
  return end === size ? length : Math.max(0, alignDown(end, unit) - offset)
}

/** How many bytes read as zeroes on both sides, known without reading them. */
async function bothZero(
  image: BlockNode,
  backing: BlockNode | undefined,
  offset: number,
  length: number,
): Promise<number> {
  const old = await chainExtentAt(image, offset, length)
  if (!old.zero) return 0
  if (!backing || offset >= backing.size) return old.length
  const inside = Math.min(old.length, backing.size - offset)
  const fresh = await chainExtentAt(backing, offset, inside)
  return fresh.zero ? fresh.length : 0
}

async function copyRun(
  image: Edge,
  backing: Edge | undefined,
  offset: number,
  length: number,
  unit: number,
  buffers: { readonly old: Uint8Array; readonly fresh: Uint8Array },
): Promise<void> {
  const old = buffers.old.subarray(0, length)
  const fresh = buffers.fresh.subarray(0, length)
  await image.read(offset, old)
  const inside = Math.min(length, Math.max(0, (backing?.size ?? 0) - offset))
  fresh.fill(0, inside)
  if (inside > 0) await backing?.read(offset, fresh.subarray(0, inside))
  for (let from = 0; from < length; ) {
    const to = Math.min(length, from + unit - ((offset + from) % unit))
    const part = old.subarray(from, to)
    if (Buffer.compare(part, fresh.subarray(from, to)) !== 0) {
      if (isZero(part)) await image.writeZeroes(offset + from, part.length, { mayUnmap: true })
      else await image.write(offset + from, part)
    }
    from = to
  }
}
