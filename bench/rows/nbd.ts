/** The NBD servers under fio's nbd engine, over a Unix socket, page cache warm. */
import { rm } from 'node:fs/promises'
import path from 'node:path'
import { comparePairs } from '../pairs.ts'
import { run, serve, varve } from '../process.ts'
import type { BenchOptions, Row } from './row.ts'

interface Load {
  readonly name: string
  readonly rw: 'randread' | 'randwrite' | 'read' | 'write'
  readonly blockSize: '4k' | '1m'
  readonly depth: number
}

const loads: readonly Load[] = [
  ...[1, 16, 64].flatMap((depth): Load[] => [
    { name: `4 KiB random read, depth ${depth}`, rw: 'randread', blockSize: '4k', depth },
    { name: `4 KiB random write, depth ${depth}`, rw: 'randwrite', blockSize: '4k', depth },
  ]),
  { name: '1 MiB sequential read, depth 8', rw: 'read', blockSize: '1m', depth: 8 },
  { name: '1 MiB sequential write, depth 8', rw: 'write', blockSize: '1m', depth: 8 },
]

export const nbd: Row = {
  name: 'nbd',
  async *measure(options) {
    for (const format of ['raw', 'qcow2']) yield* measureFormat(format, options)
  },
}

async function* measureFormat(format: string, { folder, runs, quick }: BenchOptions) {
  const size = quick ? '64M' : '512M'
  const disk = path.join(folder, `nbd.${format}`)
  const source = path.join(folder, 'source.raw')
  await run('dd', ['if=/dev/urandom', `of=${source}`, 'bs=1M', `count=${size.slice(0, -1)}`])
  await run('qemu-img', ['convert', '-f', 'raw', '-O', format, source, disk])
  await rm(source)
  // Blocks that the file system has not placed yet would be written out under the first loads.
  await run('sync', [])
  for (const load of loads) {
    const measure = (program: string) => runLoad(program, format, disk, load, folder, quick)
    yield await comparePairs({
      name: `NBD ${format}, ${load.name}`,
      unit: load.blockSize === '4k' ? 'req/s' : 'MiB/s',
      higherIsBetter: true,
      runs,
      cached: [disk],
      ours: () => measure(varve('nbd')),
      peer: () => measure('qemu-nbd'),
    })
  }
}

async function runLoad(
  program: string,
  format: string,
  disk: string,
  load: Load,
  folder: string,
  quick: boolean,
): Promise<number> {
  const socket = path.join(folder, 'nbd.sock')
  await rm(socket, { force: true })
  await using _server = await serve(program, ['-t', '-k', socket, '-f', format, disk], socket)
  const { stdout } = await run('fio', [
    '--name=load',
    '--ioengine=nbd',
    `--uri=nbd+unix:///?socket=${socket}`,
    `--rw=${load.rw}`,
    `--bs=${load.blockSize}`,
    `--iodepth=${load.depth}`,
    '--randrepeat=1',
    '--time_based=1',
    `--runtime=${quick ? 1 : 3}`,
    '--ramp_time=0.5',
    '--output-format=json',
  ])
  const [job] = JSON.parse(stdout.slice(stdout.indexOf('{'))).jobs
  const side = load.rw.endsWith('read') ? job.read : job.write
  return load.blockSize === '4k' ? side.iops : side.bw_bytes / 1024 / 1024
}
