/** A background snapshot's stream with much RAM: runs of zero pages and of others, each page once. */
import { open } from 'node:fs/promises'
import { SeededRandom } from '../../src/bytes/seeded-random.ts'
import { token } from '../../src/snapshot/stream/format.ts'
import { RamPart } from '../../src/snapshot/stream/ram-part.ts'
import { ramListSection, streamHeader } from '../../src/snapshot/stream/stream-writer.ts'
import { device } from './migration.ts'

const MiB = 1024 * 1024
const pageSize = 4096

export interface CaptureOptions {
  /** Bytes of RAM. */
  readonly size: number
  /** Of each MiB, that it is not zero. */
  readonly filled: number
}

/** It has no description of its devices. */
export async function writeCapture(file: string, { size, filled }: CaptureOptions): Promise<void> {
  const random = new SeededRandom(1)
  const handle = await open(file, 'w')
  try {
    await handle.write(streamHeader())
    const blocks = [{ name: 'pc.ram', usedLength: size }]
    await handle.write(ramListSection(blocks, { sectionId: 2, pageSizes: false }))
    const part = new RamPart(2, pageSize, MiB / pageSize)
    const words = new Uint32Array(MiB / 4)
    const bytes = new Uint8Array(words.buffer)
    for (let at = 0; at < words.length; at++) words[at] = random.below(2 ** 32)
    for (let offset = 0; offset < size; offset += MiB) {
      part.begin(Buffer.from('pc.ram'))
      const data = random.chance(filled)
      for (let at = 0; at < MiB; at += pageSize) {
        // No two pages are the same.
        words[at / 4] = (offset + at) / pageSize + 1
        if (data) part.page(offset + at, bytes.subarray(at, at + pageSize))
        else part.zero(offset + at)
      }
      await handle.write(part.finish())
    }
    await handle.write(device(7, 'timer', Buffer.alloc(24)))
    await handle.write(Buffer.of(token.QEMU_VM_EOF))
  } finally {
    await handle.close()
  }
}
