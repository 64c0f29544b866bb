/**
 * What a guest notices of a backup: its 4 KiB random writes, while a target of 100 MB/s takes the
 * disk. The target is a throttled null device, so that the machine's own disk is not measured.
 */
import { mkdir, rm } from 'node:fs/promises'
import path from 'node:path'
import { QmpTalk } from '../../test/support/qmp-talk.ts'
import { comparePairs } from '../pairs.ts'
import { root, run } from '../process.ts'
import type { Row } from './row.ts'

const MiB = 1024 * 1024

/** Bytes a second that the target takes. */
const targetSpeed = 100_000_000

export const backupLatency: Row = {
  name: 'backup-latency',
  async *measure({ folder, runs, rest, quick }) {
    const seconds = quick ? 2 : 5
    // Twice what the target takes in that time.
    const size = Math.ceil((seconds * targetSpeed * 2) / MiB) * MiB
    const source = path.join(folder, 'busy.raw')
    await run('dd', ['if=/dev/urandom', `of=${source}`, 'bs=1M', `count=${size / MiB}`])
    try {
      for (const depth of [1, 8]) {
        const measure = (daemon: string) =>
          writeLatency(path.join(folder, 'busy'), { daemon, source, size, depth, seconds })
        yield await comparePairs({
          name: `4 KiB writes during a backup to 100 MB/s, depth ${depth}, 99th percentile`,
          unit: 'ms',
          higherIsBetter: false,
          runs,
          rest,
          cached: [source],
          ours: () => measure(path.join(root, 'bin', 'varve-storage-daemon')),
          peer: () => measure('qemu-storage-daemon'),
        })
      }
    } finally {
      await rm(source)
    }
  },
}

interface Load {
  readonly daemon: string
  readonly source: string
  readonly size: number
  readonly depth: number
  readonly seconds: number
}

/** The 99th percentile in milliseconds. */
async function writeLatency(place: string, load: Load): Promise<number> {
  await mkdir(place)
  try {
    await using talk = await QmpTalk.start([load.daemon], place, [
      ...['--object', `throttle-group,id=slow,limits.bps-write=${targetSpeed}`],
      ...['--blockdev', `driver=raw,node-name=disk,file.driver=file,file.filename=${load.source}`],
      '--blockdev',
      `driver=throttle,node-name=target,throttle-group=slow,file.driver=null-co,file.size=${load.size}`,
      ...['--nbd-server', 'addr.type=unix,addr.path=nbd.sock'],
      ...['--export', 'type=nbd,id=e,node-name=disk,name=disk,writable=on'],
    ])
    await talk.say({ execute: 'qmp_capabilities' })
    const args = { 'job-id': 'j', device: 'disk', target: 'target', sync: 'full' }
    await talk.say({ execute: 'blockdev-backup', arguments: args })
    const latency = await writeWithFio(path.join(place, 'nbd.sock'), load)
    const { replies } = await talk.say({ execute: 'query-block-jobs' })
    const { return: running } = replies[0] as { return: readonly unknown[] }
    if (running.length === 0) throw new Error('the backup ended before the guest did')
    const cancel = { device: 'j', force: true }
    await talk.say({ execute: 'block-job-cancel', arguments: cancel })
    return latency
  } finally {
    await rm(place, { recursive: true })
  }
}

async function writeWithFio(socket: string, { depth, seconds }: Load): Promise<number> {
  const { stdout } = await run('fio', [
    '--name=guest',
    '--ioengine=nbd',
    `--uri=nbd+unix:///disk?socket=${socket}`,
    '--rw=randwrite',
    '--bs=4k',
    `--iodepth=${depth}`,
    '--randrepeat=1',
    '--time_based=1',
    `--runtime=${seconds}`,
    '--output-format=json',
  ])
  const [job] = JSON.parse(stdout.slice(stdout.indexOf('{'))).jobs
  return job.write.clat_ns.percentile['99.000000'] / 1e6
}
