/**
 * Saving and loading RAM against `cat`, which is what QEMU alone offers: the same capture through a
 * pipe, page cache warm, nothing forced to stable storage (cat does not do that either).
 */
import { open, rm } from 'node:fs/promises'
import path from 'node:path'
import { SeededRandom } from '../../src/bytes/seeded-random.ts'
import { token } from '../../src/snapshot/stream/format.ts'
import { RamPart } from '../../src/snapshot/stream/ram-part.ts'
import { ramListSection, streamHeader } from '../../src/snapshot/stream/stream-writer.ts'
import { comparePairs } from '../pairs.ts'
import { run, varve } from '../process.ts'
import type { Row } from './row.ts'

const MiB = 1024 * 1024
const pageSize = 4096

export const snap: Row = {
  name: 'snap',
  async *measure({ folder, runs, quick }) {
    const mebibytes = quick ? 64 : 1024
    const capture = path.join(folder, 'capture')
    const copy = path.join(folder, 'copy')
    const image = path.join(folder, 'snapshot.qcow2')
    await makeCapture(capture, mebibytes * MiB)
    const shell = async (command: string) => (await run('sh', ['-c', command])).seconds
    const save = `${varve('snap')} -s 4G --no-description --cache=unsafe save ${image}`
    const size = `${mebibytes} MiB of RAM, half of it zero`
    yield await comparePairs({
      ...{ name: `save ${size}; cat > file`, unit: 's', higherIsBetter: false, runs },
      ours: () => shell(`cat ${capture} | ${save}`),
      async peer() {
        await rm(copy, { force: true })
        return await shell(`cat ${capture} | cat > ${copy}`)
      },
    })
    yield await comparePairs({
      ...{ name: `load ${size}; cat file`, unit: 's', higherIsBetter: false, runs },
      ours: () => shell(`${varve('snap')} load ${image} | cat > /dev/null`),
      peer: () => shell(`cat ${capture} | cat > /dev/null`),
    })
  },
}

/** A background snapshot's stream: runs of zero pages and of others, each page once. */
async function makeCapture(file: string, size: number): Promise<void> {
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
      const zero = random.chance(0.5)
      for (let at = 0; at < MiB; at += pageSize) {
        // No two pages are the same.
        words[at / 4] = offset + at
        if (zero) part.zero(offset + at)
        else part.page(offset + at, bytes.subarray(at, at + pageSize))
      }
      await handle.write(part.finish())
    }
    await handle.write(device(7, 'timer', 24))
    await handle.write(Buffer.of(token.QEMU_VM_EOF))
  } finally {
    await handle.close()
  }
}

function device(id: number, name: string, length: number): Buffer {
  const head = Buffer.alloc(6)
  head[0] = token.QEMU_VM_SECTION_FULL
  head.writeUInt32BE(id, 1)
  head[5] = name.length
  const footer = Buffer.alloc(5)
  footer[0] = token.QEMU_VM_SECTION_FOOTER
  footer.writeUInt32BE(id, 1)
  return Buffer.concat([head, Buffer.from(name), Buffer.alloc(8), Buffer.alloc(length), footer])
}
