/** Converting into a compressed image: a program, texts, and bytes that do not compress. */
import { randomFillSync } from 'node:crypto'
import { open, readdir, readFile, rm, stat } from 'node:fs/promises'
import path from 'node:path'
import { comparePairs } from '../pairs.ts'
import { root, run, varve } from '../process.ts'
import type { Row } from './row.ts'

const MiB = 1024 * 1024

/** A third of each, one behind the other in runs of 4 MiB. */
async function makeMixture(file: string, size: number): Promise<void> {
  const third = Math.floor(size / 3)
  const program = (await readFile(process.execPath)).subarray(0, third)
  const text = await texts(third)
  const noise = randomFillSync(Buffer.alloc(third))
  const handle = await open(file, 'w')
  try {
    const step = 4 * MiB
    let offset = 0
    for (let at = 0; at < third; at += step) {
      for (const content of [program, text, noise]) {
        const part = content.subarray(at % content.length, (at % content.length) + step)
        await handle.write(part, 0, part.length, offset)
        offset += step
      }
    }
    await handle.truncate(offset)
  } finally {
    await handle.close()
  }
}

/** Sources and documents of the development dependencies. */
async function texts(length: number): Promise<Buffer> {
  const parts: Buffer[] = []
  let sum = 0
  const folder = path.join(root, 'node_modules')
  for (const name of await readdir(folder, { recursive: true })) {
    if (sum >= length) break
    if (!/\.(md|ts|js)$/.test(name)) continue
    const content = await readFile(path.join(folder, name)).catch(() => Buffer.alloc(0))
    parts.push(content)
    sum += content.length
  }
  return Buffer.concat(parts).subarray(0, length)
}

export const compress: Row = {
  name: 'compress',
  async *measure({ folder, runs, rest, quick }) {
    const raw = path.join(folder, 'mixture.raw')
    await makeMixture(raw, (quick ? 48 : 240) * MiB)
    const out = path.join(folder, 'compressed.qcow2')
    const convert = async (program: string) => {
      const { seconds } = await run(program, [
        'convert',
        '-c',
        '-f',
        'raw',
        '-O',
        'qcow2',
        raw,
        out,
      ])
      const { size } = await stat(out)
      await rm(out)
      return { seconds, size }
    }
    yield await comparePairs({
      name: 'convert -c raw → qcow2',
      unit: 's',
      higherIsBetter: false,
      runs,
      rest,
      ours: async () => (await convert(varve('img'))).seconds,
      peer: async () => (await convert('qemu-img')).seconds,
    })
    yield await comparePairs({
      name: 'convert -c raw → qcow2, size of the image',
      unit: 'MiB',
      higherIsBetter: false,
      runs: 1,
      ours: async () => (await convert(varve('img'))).size / MiB,
      peer: async () => (await convert('qemu-img')).size / MiB,
    })
    await rm(raw)
  },
}
