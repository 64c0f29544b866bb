/**
 * What can be done with the bitmaps of nodes, each as a change that is made at once and then either
 * kept or taken back, so that several can happen together or not at all. Rules and messages are
 * QEMU's. Between the change and `commit` or `abort` nobody else may work with the bitmap.
 */
import { createHash } from 'node:crypto'
import { DirtyBitmap, minGranularity } from '../bitmap/dirty-bitmap.ts'
import { checkUsable } from '../bitmap/usable.ts'
import { plainIo } from '../block/layer.ts'
import { isPowerOfTwo, KiB } from '../bytes/range.ts'
import { BlockError, inContext, invalid } from '../errors.ts'
import type { BlockNode } from './node.ts'

export interface BitmapChange {
  commit(): void
  /** Puts back what was before. */
  abort(): void
}

export interface NewBitmap {
  readonly name: string
  readonly granularity?: number
  readonly persistent?: boolean
  readonly disabled?: boolean
}

/** The bitmap of that name; throws `INVALID_ARGUMENT` when there is none. */
export function findBitmap(node: BlockNode, name: string): DirtyBitmap {
  const bitmap = node.bitmaps.get(name)
  if (bitmap) return bitmap
  throw invalid(`Dirty bitmap '${name}' not found`)
}

export function checkBitmapName(name: string): void {
  if (name === '') throw invalid('Bitmap name cannot be empty')
}

export function addBitmap(node: BlockNode, options: NewBitmap): BitmapChange {
  const { name, granularity = usualGranularity(node), persistent = false } = options
  checkBitmapName(name)
  if (!isPowerOfTwo(granularity) || granularity < minGranularity) {
    throw invalid('Granularity must be power of 2 and at least 512')
  }
  const bitmap = new DirtyBitmap({
    name,
    granularity,
    size: node.size,
    enabled: options.disabled !== true,
    persistent,
  })
  if (node.bitmaps.get(name)) throw invalid(`Bitmap already exists: ${name}`)
  if (persistent) checkPersistent(node, bitmap)
  if (Buffer.byteLength(name) > maxNameBytes) throw invalid(`Bitmap name too long: ${name}`)
  node.bitmaps.add(bitmap)
  return { commit: () => {}, abort: () => node.bitmaps.remove(bitmap) }
}

/** A persistent one goes from the image at once; taken back, it will be stored again. */
export async function removeBitmap(node: BlockNode, name: string): Promise<BitmapChange> {
  const bitmap = findBitmap(node, name)
  const { persistent } = bitmap
  checkUsable(bitmap, { inconsistent: true })
  bitmap.busy = 'block-dirty-bitmap-remove'
  const abort = () => {
    bitmap.busy = undefined
    bitmap.persistent = persistent
  }
  try {
    if (persistent) await node.bitmaps.inTurn(() => removeStored(node, bitmap))
  } catch (error) {
    abort()
    throw inContext(`Failed to remove bitmap '${name}' from node '${node.name}'`, error)
  }
  return { commit: () => node.bitmaps.remove(bitmap), abort }
}

/** Should the image become read-only from now on, it is not stored once more. */
async function removeStored(node: BlockNode, bitmap: DirtyBitmap): Promise<void> {
  // It may have become read-only in the meantime, at the end of a job.
  checkUsable(bitmap, { inconsistent: true, busy: true })
  await node.layer.bitmaps?.remove(bitmap.name, plainIo)
  bitmap.persistent = false
}

export function clearBitmap(node: BlockNode, name: string): BitmapChange {
  const bitmap = findBitmap(node, name)
  checkUsable(bitmap)
  const former = bitmap.take()
  return { commit: () => {}, abort: () => bitmap.restore(former) }
}

/** Starts or stops recording. */
export function enableBitmap(node: BlockNode, name: string, enabled: boolean): BitmapChange {
  const bitmap = findBitmap(node, name)
  checkUsable(bitmap, { readOnly: true })
  const former = bitmap.enabled
  bitmap.enabled = enabled
  return {
    commit: () => {},
    abort: () => {
      bitmap.enabled = former
    },
  }
}

export interface BitmapPlace {
  readonly node: BlockNode
  readonly name: string
}

/** Makes dirty in one bitmap what is dirty in any of the others. */
export function mergeBitmaps(target: BitmapPlace, sources: readonly BitmapPlace[]): BitmapChange {
  const into = findBitmap(target.node, target.name)
  checkUsable(into)
  const others = sources.map(({ node, name }) => {
    const bitmap = findBitmap(node, name)
    checkUsable(bitmap, { readOnly: true })
    if (bitmap.size !== into.size) {
      throw invalid(
        `Bitmaps are of different sizes (destination size is ${into.size}, source size is ` +
          `${bitmap.size}) and can't be merged`,
      )
    }
    return bitmap
  })
  const former = into.save()
  for (const bitmap of others) if (bitmap !== into) into.merge(bitmap)
  return { commit: () => {}, abort: () => into.restore(former) }
}

/** SHA-256 of the bits as QEMU has them in memory, in words of 64 bits; zeroes for inconsistent ones. */
export function hashBitmap(node: BlockNode, bitmap: DirtyBitmap): string {
  const bytes = Math.ceil(Math.ceil(node.size / bitmap.granularity) / 64) * 8
  const hash = createHash('sha256')
  const chunk = new Uint8Array(64 * KiB)
  for (let at = 0; at < bytes; at += chunk.length) {
    const part = chunk.subarray(0, Math.min(chunk.length, bytes - at))
    bitmap.writeBits(at * 8 * bitmap.granularity, part)
    hash.update(part)
  }
  return hash.digest('hex')
}

/** The node's unit of allocation, within 4 KiB and 64 KiB. */
export function usualGranularity(node: BlockNode): number {
  const cluster = node.layer.image?.clusterSize ?? 64 * KiB
  return Math.min(64 * KiB, Math.max(4 * KiB, cluster))
}

/** Bytes of the name of any bitmap. */
const maxNameBytes = 1023

function checkPersistent(node: BlockNode, bitmap: DirtyBitmap): void {
  const { bitmaps } = node.layer
  if (!bitmaps) {
    throw new BlockError(
      'UNSUPPORTED',
      `Can't store persistent bitmaps to ${node.name}: Operation not supported`,
      {
        node: node.name,
        errno: 'ENOTSUP',
      },
    )
  }
  const others = [...node.bitmaps].filter(({ persistent }) => persistent)
  try {
    bitmaps.checkNew(bitmap, others)
  } catch (error) {
    throw inContext(`Can't make bitmap '${bitmap.name}' persistent in '${node.name}'`, error)
  }
}
