/**
 * Small writes that allocate: into a fresh qcow2 image, and into an overlay, where every first write
 * to a cluster copies the rest of it from the backing file. A fixed number of requests, since an
 * image that is full has nothing left to allocate.
 */
import { rm } from 'node:fs/promises'
import path from 'node:path'
import { comparePairs } from '../pairs.ts'
import { run, serve, varve } from '../process.ts'
import type { BenchOptions, Row } from './row.ts'

interface Target {
  readonly name: string
  /** As `qemu-img create -o`. */
  readonly options: string
  readonly backed: boolean
}

const targets: readonly Target[] = [
  { name: 'fresh', options: 'cluster_size=64k', backed: false },
  { name: 'overlay', options: 'cluster_size=64k', backed: true },
  { name: 'overlay, subclusters', options: 'cluster_size=64k,extended_l2=on', backed: true },
]

export const qcow2Write: Row = {
  name: 'qcow2-write',
  async *measure(options) {
    const { folder, quick } = options
    const megabytes = quick ? 256 : 1024
    const base = path.join(folder, 'base.raw')
    await run('dd', ['if=/dev/urandom', `of=${base}`, 'bs=1M', `count=${megabytes}`])
    for (const target of targets) {
      for (const depth of [1, 16]) yield await measureTarget(target, depth, megabytes, options)
    }
    await rm(base)
  },
}

function measureTarget(target: Target, depth: number, megabytes: number, options: BenchOptions) {
  const measure = (program: string) => runLoad(program, target, depth, megabytes, options)
  return comparePairs({
    name: `NBD qcow2, ${target.name}, 4 KiB random write, depth ${depth}`,
    unit: 'req/s',
    higherIsBetter: true,
    runs: options.runs,
    cached: target.backed ? [path.join(options.folder, 'base.raw')] : [],
    ours: () => measure(varve('nbd')),
    peer: () => measure('qemu-nbd'),
  })
}

async function runLoad(
  program: string,
  { options, backed }: Target,
  depth: number,
  megabytes: number,
  { folder }: BenchOptions,
): Promise<number> {
  const disk = path.join(folder, 'fresh.qcow2')
  const socket = path.join(folder, 'nbd.sock')
  const backing = backed ? ['-b', 'base.raw', '-F', 'raw'] : []
  await rm(socket, { force: true })
  await run('qemu-img', ['create', '-f', 'qcow2', '-o', options, ...backing, disk, `${megabytes}M`])
  await using _server = await serve(program, ['-t', '-k', socket, '-f', 'qcow2', disk], socket)
  const { stdout } = await run('fio', [
    '--name=load',
    '--ioengine=nbd',
    `--uri=nbd+unix:///?socket=${socket}`,
    '--rw=randwrite',
    '--bs=4k',
    `--io_size=${megabytes / 16}M`,
    `--iodepth=${depth}`,
    '--randrepeat=1',
    '--output-format=json',
  ])
  return JSON.parse(stdout.slice(stdout.indexOf('{'))).jobs[0].write.iops
}
