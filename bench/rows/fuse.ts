/**
 * A raw disk as a file over FUSE, used by fio. The kernel's share is the same for both; as root, since that
 * is what our mounts take.
 */
import { existsSync } from 'node:fs'
import { rm, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { comparePairs } from '../pairs.ts'
import { run, serve, varve } from '../process.ts'
import type { BenchOptions, Row } from './row.ts'

interface Load {
  readonly name: string
  readonly unit: 'req/s' | 'MiB/s'
  /** For fio. */
  readonly args: readonly string[]
}

const smallReads = ['--rw=randread', '--bs=4k']
const loads: readonly Load[] = [
  { name: '4 KiB random read, depth 1', unit: 'req/s', args: smallReads },
  {
    name: '4 KiB random read, depth 16, O_DIRECT',
    unit: 'req/s',
    args: [...smallReads, '--ioengine=libaio', '--iodepth=16', '--direct=1'],
  },
  { name: '4 KiB random write, depth 1', unit: 'req/s', args: ['--rw=randwrite', '--bs=4k'] },
  { name: '1 MiB sequential read', unit: 'MiB/s', args: ['--rw=read', '--bs=1m', '--direct=1'] },
  { name: '1 MiB sequential write', unit: 'MiB/s', args: ['--rw=write', '--bs=1m'] },
]

export const fuse: Row = {
  name: 'fuse',
  async *measure({ folder, runs, quick }: BenchOptions) {
    if (process.getuid?.() !== 0 || !existsSync('/dev/fuse')) return
    const megabytes = quick ? 64 : 512
    const disk = path.join(folder, 'fuse.raw')
    await run('dd', ['if=/dev/urandom', `of=${disk}`, 'bs=1M', `count=${megabytes}`])
    await run('sync', [])
    for (const load of loads) {
      const measure = (program: string) => rate(program, load, disk, quick ? 1 : 3)
      yield await comparePairs({
        name: `FUSE raw, ${load.name}`,
        unit: load.unit,
        higherIsBetter: true,
        runs,
        cached: [disk],
        ours: () => measure(varve('storage-daemon')),
        peer: () => measure('qemu-storage-daemon'),
      })
    }
    await rm(disk)
  },
}

async function rate(program: string, { unit, args }: Load, disk: string, seconds: number) {
  const file = `${disk}.mount`
  const started = `${disk}.pid`
  await writeFile(file, '')
  await rm(started, { force: true })
  const daemon = [
    ...['--blockdev', `driver=file,node-name=d,filename=${disk}`],
    ...['--export', `type=fuse,id=e,node-name=d,mountpoint=${file},writable=on`],
    // Written when all else is done.
    ...['--pidfile', started],
  ]
  await using _server = await serve(program, daemon, started)
  const limits = ['--time_based=1', `--runtime=${seconds}`, '--ramp_time=0.5']
  const common = ['--name=load', `--filename=${file}`, '--ioengine=psync', '--randrepeat=1']
  const { stdout } = await run('fio', [...common, ...args, ...limits, '--output-format=json'])
  const [job] = JSON.parse(stdout.slice(stdout.indexOf('{'))).jobs
  const side = args.some((word) => /read$/.test(word)) ? job.read : job.write
  return unit === 'req/s' ? side.iops : side.bw_bytes / 1024 / 1024
}
