/**
 * Copy-on-read: makes an image hold what it shows of a range through its backing file. The node
 * keeps everybody else off the range meanwhile.
 */
import { type BlockLayer, type Io, plainZeroIo } from '../block/layer.ts'
import { alignOut, alignUp, type ByteRange, MiB } from '../bytes/range.ts'
import { isZero } from '../bytes/zero.ts'

/** What is copied at once. */
const maxPiece = MiB

/** The range rounded out to what the image allocates, cut at its end. */
export function populatedRange(layer: BlockLayer, offset: number, length: number): ByteRange {
  const unit = Math.max(layer.image?.clusterSize ?? 1, layer.limits.alignment)
  const whole = alignOut({ offset, length }, unit)
  return { ...whole, length: Math.min(whole.length, layer.size - whole.offset) }
}

/** Copies what is unallocated of a range from `populatedRange`; zeroes stay zeroes. */
export async function populate(layer: BlockLayer, range: ByteRange, io: Io): Promise<void> {
  const end = range.offset + range.length
  for (let at = range.offset; at < end; ) {
    const run = await layer.extentAt(at, end - at, io)
    if (run.kind !== 'backing') {
      at += run.length
      continue
    }
    const length = Math.min(run.length, maxPiece, end - at)
    await copyUp(layer, at, length, io)
    at += length
  }
}

async function copyUp(layer: BlockLayer, offset: number, length: number, io: Io): Promise<void> {
  // The last sector of a disk may be cut short; layers take it whole.
  const bytes = new Uint8Array(alignUp(length, layer.limits.alignment))
  await layer.read(offset, bytes, io)
  const writeIo = { ...plainZeroIo, signal: io.signal, unchanged: true }
  await layer.debugEvent?.('cor_write')
  if (isZero(bytes) && layer.capabilities.writeZeroes === 'native') {
    await layer.writeZeroes(offset, length, writeIo)
  } else {
    await layer.write(offset, bytes, writeIo)
  }
}
