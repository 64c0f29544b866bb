/**
 * Has a file in the page cache. That it was written a minute ago is not enough: a virtual machine may give
 * back what has not been looked at for seconds (DAMON), and who then reads it waits for the disk.
 */
import { open } from 'node:fs/promises'

const buffer = new Uint8Array(1024 * 1024)

export async function warm(file: string): Promise<void> {
  await using handle = await open(file)
  let position = 0
  for (;;) {
    const { bytesRead } = await handle.read(buffer, 0, buffer.length, position)
    if (bytesRead === 0) return
    position += bytesRead
  }
}
