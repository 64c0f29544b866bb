/** Images for conversations about jobs, and the commands that open them. */
import { execFileSync } from 'node:child_process'
import { truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { MiB } from '../../src/bytes/range.ts'
import { command, type Message } from './qmp-talk.ts'

export const raw = (name: string): Message =>
  command('blockdev-add', {
    driver: 'raw',
    'node-name': name,
    file: { driver: 'file', filename: `${name}.raw`, 'node-name': `${name}-file` },
  })

export const qcow2 = (name: string, backing?: string): Message =>
  command('blockdev-add', {
    driver: 'qcow2',
    'node-name': name,
    file: { driver: 'file', filename: `${name}.qcow2`, 'node-name': `${name}-file` },
    ...(backing === undefined ? {} : { backing }),
  })

/** Four nodes: `top`, on `mid`, on `base`, and `t`. */
export const chain = [qcow2('base'), qcow2('mid', 'base'), qcow2('top', 'mid'), raw('t')]
export const disks = ['s', 't', 'big', 'small'].map(raw)

/** A verb for the job `j`. */
export const on = (verb: string, args: Message = {}) =>
  command(verb, {
    [verb.startsWith('job-') || /finalize|dismiss/.test(verb) ? 'id' : 'device']: 'j',
    ...args,
  })
export const query = [command('query-jobs'), command('query-block-jobs')]

/** Their images. */
export function prepare(folder: string): void {
  const image = (name: string, ...options: string[]) =>
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', ...options, `${name}.qcow2`], {
      cwd: folder,
    })
  const fill = (name: string, pattern: number, range: string) =>
    execFileSync('qemu-io', ['-c', `write -q -P ${pattern} ${range}`, `${name}.qcow2`], {
      cwd: folder,
    })
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', 'base.qcow2', '8M'], { cwd: folder })
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', 'new.qcow2', '8M'], { cwd: folder })
  image('mid', '-b', 'base.qcow2', '-F', 'qcow2')
  image('top', '-b', 'mid.qcow2', '-F', 'qcow2')
  fill('base', 1, '0 3M')
  fill('mid', 2, '1M 3M')
  fill('top', 3, '2M 1M')
  writeFileSync(join(folder, 's.raw'), Buffer.alloc(3 * MiB, 'varve'))
  for (const [name, size] of [
    ['s', 8],
    ['t', 8],
    ['big', 9],
    ['small', 4],
  ] as const) {
    const path = join(folder, `${name}.raw`)
    if (name !== 's') writeFileSync(path, '')
    truncateSync(path, size * MiB)
  }
}
