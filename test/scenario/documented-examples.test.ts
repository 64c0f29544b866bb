/** The examples in the documents are run as they stand there. */
import { execFile } from 'node:child_process'
import { cpSync, mkdtempSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { beforeAll, expect, it } from 'vitest'
import { createImage } from '../../src/create-image.ts'
import { openDisk } from '../../src/disk.ts'
import { drivers } from '../../src/drivers.ts'
import { Graph } from '../../src/graph/graph.ts'
import { scratchFolder } from '../support/folder.ts'

const root = join(import.meta.dirname, '../..')
const folder = scratchFolder('examples')
const images = ['a.qcow2', 'live.qcow2', 'disk.qcow2', 'copy.qcow2', 'copy.raw']

beforeAll(async () => {
  await using graph = new Graph({ drivers })
  for (const name of images) {
    const filename = join(folder, name)
    const format = name.replace(/.*\./, '')
    await createImage(graph, { filename, format, options: { size: 2 ** 20 } })
    if (name.startsWith('copy')) continue
    await using disk = await openDisk(filename, { format })
    await disk.write(65536, new Uint8Array(4096).fill(5))
  }
})

/** Blocks of TypeScript in a document that are programs of their own. */
function examplesOf(document: string): string[] {
  const text = readFileSync(join(root, document), 'utf8')
  const blocks = [...text.matchAll(/^```ts\n(.*?)^```$/gms)].map(([, code]) => code)
  return blocks.filter((code) => code.startsWith('import'))
}

/** What it prints. */
async function run(code: string): Promise<string> {
  const own = mkdtempSync(join(folder, 'run-'))
  for (const name of images) cpSync(join(folder, name), join(own, name))
  const file = join(own, 'example.ts')
  writeFileSync(file, code.replaceAll("from 'varve'", `from '${join(root, 'src/index.ts')}'`))
  const { stdout } = await promisify(execFile)(process.execPath, [file], { cwd: own })
  return stdout
}

it('README.md: an image read, and a backup', async () => {
  const [read, backup] = examplesOf('README.md')
  expect((await run(read)).trim().split('\n')).toEqual([
    '0 65536 true',
    '65536 65536 false',
    '131072 917504 true',
  ])
  expect((await run(backup)).trim().split('\n').at(-1)).toBe('1')
})

it('docs/jobs.md: a mirror', async () => {
  const [mirror] = examplesOf('docs/jobs.md')
  expect(await run(mirror)).toMatch(/^null 1048576 1048576$/m)
})

it('docs/drives.md: media and requests', async () => {
  const [drive] = examplesOf('docs/drives.md')
  expect((await run(drive)).trim().split('\n')).toEqual([
    'closed',
    "Device 'cd0' is locked and force was not specified",
    'open',
    'closed',
    '1 1 true',
    'open',
  ])
})
