/**
 * The NBD servers behind TLS 1.3 with certificates on both sides: nbdcopy over one connection from
 * and to a raw file in the page cache. What nbdcopy takes itself weighs on both alike.
 */
import { rm } from 'node:fs/promises'
import path from 'node:path'
import { makePki } from '../../test/support/certificates.ts'
import { comparePairs } from '../pairs.ts'
import { run, serve, varve } from '../process.ts'
import type { BenchOptions, Row } from './row.ts'

interface Load {
  readonly name: string
  readonly way: 'read' | 'write'
  readonly size: number
  readonly depth: number
}

const loads: readonly Load[] = [
  { name: 'read, 1 MiB at depth 8', way: 'read', size: 2 ** 20, depth: 8 },
  { name: 'write, 1 MiB at depth 8', way: 'write', size: 2 ** 20, depth: 8 },
  { name: 'read, 4 KiB at depth 16', way: 'read', size: 4096, depth: 16 },
  { name: 'write, 4 KiB at depth 16', way: 'write', size: 4096, depth: 16 },
]

export const nbdTls: Row = {
  name: 'nbd-tls',
  async *measure({ folder, runs, rest, quick }: BenchOptions) {
    const megabytes = quick ? 32 : 512
    const disk = path.join(folder, 'tls.raw')
    const other = path.join(folder, 'tls-other.raw')
    const pki = makePki(path.join(folder, 'pki')).folder
    for (const file of [disk, other]) {
      await run('dd', ['if=/dev/urandom', `of=${file}`, 'bs=1M', `count=${megabytes}`])
    }
    await run('sync', [])
    for (const load of loads) {
      const measure = (program: string) => rate(program, { disk, other, pki, load, megabytes })
      yield await comparePairs({
        name: `NBD over TLS, ${load.name}`,
        unit: 'MiB/s',
        higherIsBetter: true,
        runs,
        rest,
        ours: () => measure(varve('nbd')),
        peer: () => measure('qemu-nbd'),
      })
    }
  },
}

interface Work {
  readonly disk: string
  readonly other: string
  readonly pki: string
  readonly load: Load
  readonly megabytes: number
}

async function rate(program: string, { disk, other, pki, load, megabytes }: Work) {
  const socket = `${disk}.sock`
  await rm(socket, { force: true })
  const tls = ['--object', `tls-creds-x509,id=tls0,endpoint=server,dir=${pki}`, '--tls-creds']
  const args = ['-t', '-k', socket, '-f', 'raw', ...tls, 'tls0', disk]
  await using _server = await serve(program, args, socket)
  const uri = `nbds+unix:///?socket=${socket}&tls-certificates=${pki}`
  const sizes = [`--requests=${load.depth}`, `--request-size=${load.size}`, '--connections=1']
  const way = load.way === 'read' ? [uri, 'null:'] : [other, uri]
  const { seconds } = await run('nbdcopy', [...sizes, '--no-extents', ...way])
  return megabytes / seconds
}
