/** A raw disk over vhost-user-blk, used by a program that is monitor and guest in one (`../vhost-user-load.py`). */
import { rm } from 'node:fs/promises'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { comparePairs } from '../pairs.ts'
import { run, serve, varve } from '../process.ts'
import type { BenchOptions, Row } from './row.ts'

const load = fileURLToPath(new URL('../vhost-user-load.py', import.meta.url))
const KiB = 1024

/** Depth, direction, bytes of a request. */
const loads = [
  [1, 'read', 4 * KiB],
  [1, 'write', 4 * KiB],
  [16, 'read', 4 * KiB],
  [16, 'write', 4 * KiB],
  [64, 'read', 4 * KiB],
  [8, 'read', 256 * KiB],
  [8, 'write', 256 * KiB],
] as const

export const vhostUser: Row = {
  name: 'vhost-user',
  async *measure({ folder, runs, quick }: BenchOptions) {
    const disk = path.join(folder, 'vhost-user.raw')
    await run('dd', ['if=/dev/urandom', `of=${disk}`, 'bs=1M', `count=${quick ? 64 : 512}`])
    await run('sync', [])
    for (const [depth, kind, length] of loads) {
      const words = [`${depth}`, kind, `${length}`, quick ? '1' : '3']
      const measure = (program: string) => rate(program, disk, words)
      yield await comparePairs({
        name: `vhost-user-blk raw, ${length / KiB} KiB random ${kind}, depth ${depth}`,
        unit: 'req/s',
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

async function rate(program: string, disk: string, words: readonly string[]): Promise<number> {
  const socket = `${disk}.sock`
  const started = `${disk}.pid`
  await rm(started, { force: true })
  const daemon = [
    ...['--blockdev', `driver=file,node-name=d,filename=${disk}`],
    '--export',
    `type=vhost-user-blk,id=e,node-name=d,addr.type=unix,addr.path=${socket},writable=on`,
    // Written when all else is done.
    ...['--pidfile', started],
  ]
  await using _server = await serve(program, daemon, started)
  const { stdout } = await run('python3', [load, socket, ...words])
  return Number(stdout)
}
