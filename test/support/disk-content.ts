/** What a damaged qcow2 image still shows. */
import { openDisk } from '../../src/disk.ts'

/** Stands for bytes that cannot be read. */
export const unreadable = 0xee

/** What is read at once: 32 sectors. */
const pieceSize = 16 * 1024

/** The disk, sector by sector where it has to be: what cannot be read is `unreadable`, and only that. */
export async function contentOf(file: string): Promise<Buffer> {
  await using disk = await openDisk(file, { format: 'qcow2', readOnly: true, backing: 'allow' })
  const content = Buffer.alloc(disk.size)
  const read = async (from: number, step: number, failed: (at: number) => Promise<unknown>) => {
    const end = Math.min(disk.size, from + 32 * step)
    for (let at = from; at < end; at += step) {
      await disk.read(at, content.subarray(at, at + step)).catch(() => failed(at))
    }
  }
  const sectors = (at: number) =>
    read(at, 512, async (sector) => content.fill(unreadable, sector, sector + 512))
  for (let at = 0; at < disk.size; at += 32 * pieceSize) await read(at, pieceSize, sectors)
  return content
}
