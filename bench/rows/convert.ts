/** Converting a file of mixed content, in a warm page cache. */
import { rm } from 'node:fs/promises'
import path from 'node:path'
import { makeDisk } from '../disk.ts'
import { comparePairs } from '../pairs.ts'
import { run, varve } from '../process.ts'
import type { Row } from './row.ts'

const MiB = 1024 * 1024

export const convert: Row = {
  name: 'convert',
  async *measure({ folder, runs, rest, quick }) {
    const raw = path.join(folder, 'disk.raw')
    const qcow2 = path.join(folder, 'disk.qcow2')
    const size = quick ? '128 MiB' : '4 GiB'
    await makeDisk(raw, (quick ? 128 : 4096) * MiB)
    await run('qemu-img', ['convert', '-f', 'raw', '-O', 'qcow2', raw, qcow2])
    const cases = [
      { name: `convert ${size} raw → qcow2`, from: ['raw', raw], to: 'qcow2' },
      { name: `convert ${size} qcow2 → raw`, from: ['qcow2', qcow2], to: 'raw' },
    ]
    for (const { name, from, to } of cases) {
      const out = path.join(folder, 'out')
      const time = async (program: string) => {
        // Over the result of the run before: its pages, just let go of, are those that the next one gets.
        // Memory that the host of a virtual machine has to bring first costs more than the work.
        return (await run(program, ['convert', '-f', from[0], '-O', to, from[1], out])).seconds
      }
      yield await comparePairs({
        name,
        unit: 's',
        higherIsBetter: false,
        runs,
        rest,
        cached: [from[1]],
        ours: () => time(varve('img')),
        peer: () => time('qemu-img'),
      })
    }
    const thin = path.join(folder, 'thin.qcow2')
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', thin, '16T'])
    const memory = async (program: string) => {
      const out = path.join(folder, 'thin.out.qcow2')
      const { peakMemory } = await run(program, ['convert', '-O', 'qcow2', thin, out])
      await rm(out)
      return peakMemory / MiB
    }
    yield await comparePairs({
      name: 'convert 16 TiB sparse, peak memory',
      unit: 'MiB',
      higherIsBetter: false,
      runs: Math.min(runs, 3),
      ours: () => memory(varve('img')),
      peer: () => memory('qemu-img'),
    })
  },
}
