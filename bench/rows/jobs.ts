/** Mirror and backup of a local image by the storage daemons, from the command to the end. */
import { mkdir, rm, truncate, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { type Message, QmpTalk } from '../../test/support/qmp-talk.ts'
import { makeDisk } from '../disk.ts'
import { comparePairs } from '../pairs.ts'
import { root, run } from '../process.ts'
import type { Row } from './row.ts'

const MiB = 1024 * 1024

type Format = 'raw' | 'qcow2'

export const jobs: Row = {
  name: 'jobs',
  async *measure({ folder, runs, rest, quick }) {
    const size = (quick ? 128 : 1024) * MiB
    const source = path.join(folder, 'source.raw')
    await makeDisk(source, size)
    await run('qemu-img', ['convert', '-O', 'qcow2', source, path.join(folder, 'source.qcow2')])
    for (const job of ['mirror', 'backup'] as const) {
      for (const format of ['raw', 'qcow2'] as const) {
        const measure = (daemon: string) => timeJob(folder, daemon, job, format, size)
        yield await comparePairs({
          name: `${job} ${size / MiB} MiB ${format} → ${format}`,
          unit: 's',
          higherIsBetter: false,
          runs,
          rest,
          cached: [path.join(folder, `source.${format}`)],
          ours: () => measure(path.join(root, 'bin', 'varve-storage-daemon')),
          peer: () => measure('qemu-storage-daemon'),
        })
      }
    }
  },
}

/** Seconds until a mirror is ready, or a backup complete. */
async function timeJob(
  folder: string,
  daemon: string,
  job: 'mirror' | 'backup',
  format: Format,
  size: number,
): Promise<number> {
  const place = path.join(folder, 'job')
  await mkdir(place)
  try {
    const target = path.join(place, `target.${format}`)
    await makeTarget(target, format, size)
    await using talk = await QmpTalk.start([daemon], place, [
      ...node('source', format, path.join(folder, `source.${format}`)),
      ...node('target', format, target),
    ])
    await talk.say({ execute: 'qmp_capabilities' })
    const args = { 'job-id': 'j', device: 'source', target: 'target', sync: 'full' }
    const end = job === 'mirror' ? 'BLOCK_JOB_READY' : 'BLOCK_JOB_COMPLETED'
    const began = performance.now()
    const { events } = await talk.say({ execute: `blockdev-${job}`, arguments: args })
    if (!events.some(({ event }) => event === end)) await talk.event(({ event }) => event === end)
    const seconds = (performance.now() - began) / 1000
    if (job === 'mirror') await finish(talk)
    return seconds
  } finally {
    await rm(place, { recursive: true })
  }
}

async function finish(talk: QmpTalk): Promise<void> {
  const { events } = await talk.say({ execute: 'block-job-cancel', arguments: { device: 'j' } })
  const ended = ({ event }: Message) => event === 'BLOCK_JOB_COMPLETED'
  if (!events.some(ended)) await talk.event(ended)
}

async function makeTarget(file: string, format: Format, size: number): Promise<void> {
  if (format === 'qcow2') {
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', file, String(size)])
    return
  }
  await writeFile(file, '')
  await truncate(file, size)
}

function node(name: string, format: Format, file: string): string[] {
  return ['--blockdev', `driver=${format},node-name=${name},file.driver=file,file.filename=${file}`]
}
