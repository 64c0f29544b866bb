/** Copying a disk as its guest sees it, and comparing two of them. */
import { open, rm } from 'node:fs/promises'
import { isZero } from '../src/bytes/zero.ts'
import { openDisk } from '../src/disk.ts'
import type { Edge } from '../src/graph/edge.ts'

export const pieceSize = 1024 ** 2

/** What the guest sees, as a sparse file. */
export async function copyDisk(disk: Edge, path: string): Promise<void> {
  await rm(path, { force: true })
  await using file = await open(path, 'wx')
  await file.truncate(disk.size)
  await inParallel(disk.size / pieceSize, 4, async (index) => {
    const piece = Buffer.alloc(pieceSize)
    await disk.read(index * pieceSize, piece)
    if (!isZero(piece)) await file.write(piece, 0, pieceSize, index * pieceSize)
  })
}

export async function firstDifference(
  reference: string,
  image: string,
  format: string,
): Promise<number | undefined> {
  await using expected = await openDisk(reference, { format: 'raw', readOnly: true })
  await using restored = await openDisk(image, { format, readOnly: true })
  if (expected.size !== restored.size) return Math.min(expected.size, restored.size)
  const [one, other] = [Buffer.alloc(pieceSize), Buffer.alloc(pieceSize)]
  for (let offset = 0; offset < expected.size; offset += pieceSize) {
    await Promise.all([expected.read(offset, one), restored.read(offset, other)])
    if (one.equals(other)) continue
    return offset + one.findIndex((byte, index) => byte !== other[index])
  }
  return undefined
}

/** Calls `work` with 0, 1, … `count - 1`, so many at a time. */
export async function inParallel(
  count: number,
  width: number,
  work: (index: number) => Promise<void>,
): Promise<void> {
  let next = 0
  const lane = async () => {
    while (next < count) await work(next++)
  }
  await Promise.all(Array.from({ length: width }, lane))
}
