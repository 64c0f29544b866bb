/** Start-up, and the check of an image with a million clusters. */
import path from 'node:path'
import { comparePairs } from '../pairs.ts'
import { run, varve } from '../process.ts'
import type { Row } from './row.ts'

export const img: Row = {
  name: 'img',
  async *measure({ folder, runs, quick }) {
    const small = path.join(folder, 'small.qcow2')
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', small, '10G'])
    const large = path.join(folder, 'large.qcow2')
    // Metadata for all of 64 GiB in clusters of 64 KiB; the data is one hole.
    const options = ['-o', 'preallocation=metadata']
    const size = quick ? '4G' : '64G'
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', ...options, large, size])
    const time = (args: string[]) => async (program: string) => {
      const { seconds } = await run(program, args)
      return seconds * 1000
    }
    const info = time(['info', small])
    yield await comparePairs({
      name: 'img info, start-up',
      unit: 'ms',
      higherIsBetter: false,
      runs: runs * 2,
      ours: () => info(varve('img')),
      peer: () => info('qemu-img'),
    })
    const check = time(['check', large])
    yield await comparePairs({
      name: `img check of ${size} allocated`,
      unit: 'ms',
      higherIsBetter: false,
      runs,
      ours: () => check(varve('img')),
      peer: () => check('qemu-img'),
    })
  },
}
