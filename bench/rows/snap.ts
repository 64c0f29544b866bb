/**
 * Saving and loading RAM against `cat`, which is what QEMU alone offers: the same capture through a
 * pipe, page cache warm, nothing forced to stable storage (cat does not do that either).
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { rm } from 'node:fs/promises'
import path from 'node:path'
import { writeCapture } from '../../test/support/large-capture.ts'
import { comparePairs } from '../pairs.ts'
import { run, varve } from '../process.ts'
import type { Row } from './row.ts'

const MiB = 1024 * 1024

export const snap: Row = {
  name: 'snap',
  async *measure({ folder, runs, rest, quick }) {
    const mebibytes = quick ? 64 : 1024
    const capture = path.join(folder, 'capture')
    const copy = path.join(folder, 'copy')
    const image = path.join(folder, 'snapshot.qcow2')
    await writeCapture(capture, { size: mebibytes * MiB, filled: 0.5 })
    const shell = async (command: string) => (await run('sh', ['-c', command])).seconds
    const afresh = async (file: string, command: string) => {
      await rm(file, { force: true })
      return await shell(command)
    }
    const save = `${varve('snap')} -s 4G --no-description --cache=unsafe save ${image}`
    const size = `${mebibytes} MiB of RAM, half of it zero`
    yield await comparePairs({
      ...{ name: `save ${size}; cat > file`, unit: 's', higherIsBetter: false, runs, rest },
      cached: [capture],
      // Both write a new file: giving back the space of the former one takes longer than either.
      ours: () => afresh(image, `cat ${capture} | ${save}`),
      peer: () => afresh(copy, `cat ${capture} | cat > ${copy}`),
    })
    yield await comparePairs({
      ...{ name: `load ${size}; cat file`, unit: 's', higherIsBetter: false, runs, rest },
      cached: [capture, image],
      ours: () => shell(`${varve('snap')} load ${image} | cat > /dev/null`),
      peer: () => shell(`cat ${capture} | cat > /dev/null`),
    })
    yield await comparePairs({
      ...{ name: `until the guest may run, --postcopy=0; cat file`, unit: 's' },
      ...{ higherIsBetter: false, runs, rest },
      cached: [capture, image],
      ours: () => untilRun(image),
      peer: () => shell(`cat ${capture} | cat > /dev/null`),
    })
  },
}

/** Seconds from the start of the loader until it has sent the command that lets the guest run. */
async function untilRun(image: string): Promise<number> {
  const began = performance.now()
  const loader = spawn(varve('snap'), ['-p', '0', 'load', image], {
    stdio: ['pipe', 'pipe', 'inherit'],
  })
  const ended = once(loader, 'close')
  let tail = Buffer.alloc(0)
  for await (const chunk of loader.stdout as AsyncIterable<Buffer>) {
    const bytes = Buffer.concat([tail, chunk])
    if (bytes.includes(runCommand)) break
    tail = bytes.subarray(-runCommand.length)
  }
  const seconds = (performance.now() - began) / 1000
  loader.kill('SIGKILL')
  await ended
  return seconds
}

/** MIG_CMD_POSTCOPY_RUN, which has no payload. */
const runCommand = Buffer.of(8, 0, 5, 0, 0)
