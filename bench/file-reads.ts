/**
 * What a read of 4 KiB from a file in the page cache costs: Node's own call, the file layer, and
 * a node of the graph above it. `node bench/file-reads.ts`
 */
import { closeSync, mkdtempSync, openSync, readSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { neverAborted, plainIo } from '../src/block/layer.ts'
import { openDisk } from '../src/disk.ts'
import { file } from '../src/protocol/file/driver.ts'
import { sys } from '../src/sys/current.ts'

const fileSize = 256 * 1024 * 1024
const readLength = 4096
const reads = 200_000
const rounds = 7

const folder = mkdtempSync(join(tmpdir(), 'varve-bench-'))
const path = join(folder, 'disk.raw')
writeFileSync(path, Buffer.alloc(fileSize, 7))

const offsets = Float64Array.from({ length: 65_536 }, () => {
  return Math.floor((Math.random() * fileSize) / readLength) * readLength
})
const target = new Uint8Array(readLength)

/** Microseconds a call; `read` says whether it answered on the spot. */
async function measure(read: (offset: number) => void | Promise<void>): Promise<number> {
  const began = performance.now()
  for (let count = 0; count < reads; count++) {
    const pending = read(offsets[count % offsets.length])
    if (pending) await pending
  }
  return ((performance.now() - began) * 1000) / reads
}

function median(values: number[]): number {
  return values.toSorted((one, other) => one - other)[Math.floor(values.length / 2)]
}

const fd = openSync(path, 'r')
const flags = { readOnly: true, direct: false, noFlush: false, forceShare: false }
const refuse = async () => {
  throw new Error('a file has no children')
}
const context = { name: 'bench', signal: neverAborted, flags, child: refuse, implied: refuse }
const layer = await file.open(file.parse({ filename: path }), context)
const disk = await openDisk(path, { format: 'raw', readOnly: true })

const subjects: Record<string, (offset: number) => void | Promise<void>> = {
  'fs.readSync': (offset) => {
    readSync(fd, target, 0, readLength, offset)
  },
  'file layer': (offset) => layer.read(offset, target, plainIo),
  'raw node over it': (offset) => disk.node.read(offset, target),
}
const results = new Map<string, number[]>()
for (let round = 0; round < rounds; round++) {
  for (const [name, read] of Object.entries(subjects)) {
    results.set(name, [...(results.get(name) ?? []), await measure(read)])
  }
}
console.log(
  `${reads} random reads of ${readLength} bytes, warm, ${sys().name}; median of ${rounds}`,
)
for (const [name, values] of results) {
  console.log(
    `${name.padEnd(18)} ${median(values).toFixed(2)} us (best ${Math.min(...values).toFixed(2)})`,
  )
}

await disk[Symbol.asyncDispose]()
await layer[Symbol.asyncDispose]()
closeSync(fd)
rmSync(folder, { recursive: true })
