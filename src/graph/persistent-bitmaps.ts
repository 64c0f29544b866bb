/**
 * Bitmaps that live in the image: loaded when a node opens, marked there as in use before anything
 * is written, stored when it closes or lets go of the image. In between those in memory count, and
 * a crash leaves inconsistent ones, which can only be removed.
 */
import { DirtyBitmap, maxBits } from '../bitmap/dirty-bitmap.ts'
import { type Io, plainIo } from '../block/layer.ts'
import { BlockError } from '../errors.ts'
import type { BlockNode } from './node.ts'

/** Loads what the image has, which is at most `maxBits` altogether. On failure nothing was changed. */
export async function loadBitmaps(node: BlockNode, io: Io = plainIo): Promise<void> {
  const stored = node.layer.bitmaps
  if (!stored) return
  let bits = 0
  for (const { name, granularity, auto, inUse } of stored.list()) {
    if (!inUse) bits += Math.ceil(node.size / granularity)
    if (bits > maxBits) {
      throw new BlockError('UNSUPPORTED', `its bitmaps have more than ${maxBits} bits`, {
        node: node.name,
        errno: 'EFBIG',
      })
    }
    const bitmap = new DirtyBitmap({
      name,
      granularity,
      // Nobody asks an inconsistent one what is dirty.
      size: inUse ? 0 : node.size,
      enabled: auto && !inUse,
      persistent: true,
      inconsistent: inUse,
    })
    if (!inUse) await stored.load(bitmap, io)
    bitmap.readOnly = node.readOnly
    node.bitmaps.add(bitmap)
  }
  if (!node.readOnly) await resumeBitmaps(node, io)
}

/** Stores what is to be kept, so that whoever opens the image next may rely on it. */
export async function storeBitmaps(node: BlockNode, io: Io = plainIo): Promise<void> {
  await node.bitmaps.inTurn(() => store(node, io))
}

async function store(node: BlockNode, io: Io): Promise<void> {
  const stored = node.layer.bitmaps
  if (!stored || !node.bitmaps.claimed) return
  const bitmaps = [...node.bitmaps].filter(({ persistent }) => persistent)
  // Whatever froze it has not come to an end: what it said before is dirty as well.
  for (const bitmap of bitmaps) if (bitmap.frozen) bitmap.reclaim()
  if (bitmaps.length === 0 && stored.list().length === 0) return
  // Were all of them inconsistent when the image was opened, nothing has changed.
  if (bitmaps.every(({ inconsistent }) => inconsistent)) return
  await stored.store(bitmaps, io)
}

/** The image becomes read-only: they are stored, and stay as they are. */
export async function suspendBitmaps(node: BlockNode, io: Io = plainIo): Promise<void> {
  await node.bitmaps.inTurn(async () => {
    await store(node, io)
    setClaimed(node, false)
  })
}

/** The image has become writable: they are marked as in use, and change again. */
export async function resumeBitmaps(node: BlockNode, io: Io = plainIo): Promise<void> {
  const { bitmaps } = node.layer
  if (!bitmaps) return
  await node.bitmaps.inTurn(async () => {
    await bitmaps.claim(io)
    setClaimed(node, true)
  })
}

function setClaimed(node: BlockNode, claimed: boolean): void {
  node.bitmaps.claimed = claimed
  for (const bitmap of node.bitmaps) if (bitmap.persistent) bitmap.readOnly = !claimed
}

/**
 * As `storeBitmaps`, and forgets those that are stored: somebody else will open the image. Refused
 * while one of them is in use, since its user would go on with what is out of date.
 */
export async function releaseBitmaps(node: BlockNode, io: Io = plainIo): Promise<void> {
  const used = [...node.bitmaps].find(({ persistent, busy }) => persistent && busy !== undefined)
  if (used) {
    const message = `Node '${node.name}' cannot be handed over: its bitmap '${used.name}' is in use by ${used.busy}`
    throw new BlockError('BUSY', message, { node: node.name, errno: 'EBUSY' })
  }
  await storeBitmaps(node, io)
  node.bitmaps.claimed = false
  for (const bitmap of [...node.bitmaps]) if (bitmap.persistent) node.bitmaps.remove(bitmap)
}
