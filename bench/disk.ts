/** The disk that most rows work on. */
import { open } from 'node:fs/promises'
import { SeededRandom } from '../src/bytes/seeded-random.ts'

const MiB = 1024 * 1024

/** Half incompressible, a quarter text-like, a quarter holes, in runs of 1 MiB. */
export async function makeDisk(file: string, size: number): Promise<void> {
  const random = new SeededRandom(1)
  const handle = await open(file, 'w')
  try {
    await handle.truncate(size)
    const words = new Uint32Array(MiB / 4)
    for (let offset = 0; offset < size; offset += MiB) {
      const kind = random.below(4)
      if (kind === 3) continue
      const range = kind === 2 ? 16 : 2 ** 32
      for (let at = 0; at < words.length; at++) words[at] = random.below(range)
      await handle.write(new Uint8Array(words.buffer), 0, MiB, offset)
    }
  } finally {
    await handle.close()
  }
}
