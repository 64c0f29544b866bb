/** What a process that is killed has written: all of a raw disk, and of qcow2 what was flushed. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { createImage } from '../../src/create-image.ts'
import { openDisk } from '../../src/disk.ts'
import { drivers } from '../../src/drivers.ts'
import { Graph } from '../../src/graph/graph.ts'
import { scratchFolder } from '../support/folder.ts'

const folder = scratchFolder('process-crash')
const library = join(import.meta.dirname, '../../src/index.ts')

/** Writes two places, a flush between them where wanted, and is killed without closing anything. */
async function crash(filename: string, format: string, flush: boolean): Promise<void> {
  const program = join(folder, 'writer.ts')
  writeFileSync(
    program,
    `import { openDisk } from ${JSON.stringify(library)}
     const [filename, format, flush] = process.argv.slice(2)
     const disk = await openDisk(filename, { format })
     await disk.write(0, new Uint8Array(65536).fill(1))
     if (flush === 'true') await disk.flush()
     await disk.write(1048576, new Uint8Array(65536).fill(2))
     process.kill(process.pid, 'SIGKILL')`,
  )
  const child = spawn(process.execPath, [program, filename, format, String(flush)])
  const [, signal] = await once(child, 'exit')
  expect(signal).toBe('SIGKILL')
}

async function firstBytes(filename: string, format: string): Promise<number[]> {
  await using disk = await openDisk(filename, { format })
  const bytes = new Uint8Array(65536)
  const found: number[] = []
  for (const offset of [0, 1048576]) {
    await disk.read(offset, bytes)
    found.push(bytes.every((each) => each === bytes[0]) ? bytes[0] : -1)
  }
  return found
}

it.each([
  ['raw', false],
  ['raw', true],
  ['qcow2', true],
])('%s, flushed: %s', async (format, flush) => {
  const filename = join(folder, `${format}-${flush}`)
  await using graph = new Graph({ drivers })
  await createImage(graph, { filename, format, options: { size: 2 ** 21 } })
  await crash(filename, format, flush)
  const [first, second] = await firstBytes(filename, format)
  expect(first).toBe(1)
  if (format === 'raw') expect(second).toBe(2)
  else expect([0, 2]).toContain(second)
})
