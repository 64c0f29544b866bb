/** The small world of a random conversation: its files, and what has a name in it right now. */
import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { MiB } from '../../../src/bytes/range.ts'
import type { Message } from '../qmp-talk.ts'

export interface WorldFile {
  readonly name: string
  readonly format: 'raw' | 'qcow2'
}

/** More than one piece of any job is in `a.raw`, `base` and `top`, so that a slow job stays under way. */
export const worldFiles: readonly WorldFile[] = [
  { name: 'a.raw', format: 'raw' },
  { name: 'b.raw', format: 'raw' },
  { name: 'odd.raw', format: 'raw' },
  { name: 'base.qcow2', format: 'qcow2' },
  { name: 'mid.qcow2', format: 'qcow2' },
  { name: 'top.qcow2', format: 'qcow2' },
  { name: 'one.qcow2', format: 'qcow2' },
  { name: 'two.qcow2', format: 'qcow2' },
  { name: 'small.qcow2', format: 'qcow2' },
  { name: 'new.img', format: 'raw' },
  { name: 'luks.img', format: 'raw' },
]

export const diskSize = 4 * MiB

/** Makes the files in `folder`, which both sides get a copy of. */
export function makeWorld(folder: string): void {
  mkdirSync(folder, { recursive: true })
  const at = (name: string) => join(folder, name)
  const pattern = (length: number, start: number) =>
    Buffer.alloc(
      length,
      Uint8Array.from({ length: 251 }, (_, index) => (index + start) & 255),
    )
  writeFileSync(at('a.raw'), pattern(diskSize, 1))
  writeFileSync(at('b.raw'), Buffer.alloc(diskSize))
  writeFileSync(at('odd.raw'), pattern(100_000, 2))
  writeFileSync(at('new.img'), '')
  const create = (name: string, ...more: string[]) =>
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', ...more, at(name)], { cwd: folder })
  const write = (name: string, ...commands: string[]) =>
    execFileSync('qemu-io', ['-f', 'qcow2', ...commands.flatMap((each) => ['-c', each]), at(name)])
  const onto = (base: string) => ['-b', base, '-F', 'qcow2']
  const sized = (name: string, size: string, ...more: string[]) => {
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', ...more, at(name), size])
  }
  sized('base.qcow2', '4M')
  write('base.qcow2', 'write -P 1 0 3M')
  create('mid.qcow2', ...onto('base.qcow2'))
  write('mid.qcow2', 'write -P 2 64k 256k', 'write -z 1M 128k')
  create('top.qcow2', ...onto('mid.qcow2'))
  write('top.qcow2', 'write -P 3 0 3M', 'discard 3M 64k')
  sized('one.qcow2', '4M', '-o', 'cluster_size=4k')
  sized('two.qcow2', '4M', '-o', 'compat=0.10')
  const key = ['--object', 'secret,id=key,data=open sesame']
  const quick = ['-o', 'key-secret=key,iter-time=10']
  makeLuks(['create', '-q', ...key, '-f', 'luks', ...quick, at('luks.img'), '1M'])
  sized('small.qcow2', '1M')
  write('small.qcow2', 'write -P 4 0 1M')
}

/** qemu-img sometimes cannot measure the time of PBKDF2. */
function makeLuks(args: readonly string[]): void {
  for (let attempt = 0; ; attempt++) {
    const { status, stderr } = spawnSync('qemu-img', args, { encoding: 'utf8' })
    if (status === 0) return
    if (attempt === 30 || !stderr.includes('accurate CPU usage')) throw new Error(stderr)
  }
}

/** What the answers of Debian's daemon say is there. */
export interface View {
  readonly nodes: readonly Message[]
  readonly jobs: readonly Message[]
  readonly exports: readonly string[]
  readonly objects: readonly string[]
  readonly chardevs: readonly string[]
}

export const emptyView: View = { nodes: [], jobs: [], exports: [], objects: [], chardevs: [] }

export function bitmapsOf(view: View): { node: string; name: string }[] {
  return view.nodes.flatMap((node) =>
    ((node['dirty-bitmaps'] ?? []) as Message[])
      .filter(({ name }) => name)
      .map(({ name }) => ({ node: String(node['node-name']), name: String(name) })),
  )
}
