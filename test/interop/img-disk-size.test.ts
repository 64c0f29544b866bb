/** How long the file of an image is and how much space it takes: what `info` calls its disk size. */
import { execFileSync } from 'node:child_process'
import { mkdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { difference } from '../support/cli-random/left-behind.ts'
import { ours, theirs } from '../support/cli-random/programs.ts'
import { scratchFolder } from '../support/folder.ts'

const qemu = peer('qemu-img', 'qemu-io')
const folder = scratchFolder('img-disk-size')

/** The disk is but a part of a cluster, or refcounts grow in other steps. */
const onlyCreated = ['cluster_size=2M', 'cluster_size=512']

const options = [
  ...onlyCreated,
  'cluster_size=64k',
  'cluster_size=4k,refcount_bits=1',
  'extended_l2=on',
  'compat=0.10',
  'preallocation=metadata',
  'preallocation=full',
]

qemu.describe('the disk size of a qcow2 image', () => {
  it.each(options)('created with %s, and written to', async (option) => {
    const sizes = []
    for (const whose of ['q', 'o'] as const) {
      const cwd = join(folder, whose)
      mkdirSync(cwd, { recursive: true })
      const run = (...args: string[]) =>
        whose === 'q' ? theirs('img', cwd, args) : ours('img', cwd, args)
      await run('create', '-q', '-f', 'qcow2', '-o', option, 'i', '1M')
      const created = taken(join(cwd, 'i'))
      execFileSync('qemu-io', ['-c', 'write 0 64k', '-c', 'write 512k 64k', 'i'], { cwd })
      const written = taken(join(cwd, 'i'))
      await run('convert', '-O', 'qcow2', '-o', option, 'i', 'copy')
      const later = { written, converted: taken(join(cwd, 'copy')) }
      sizes.push({ created, ...(onlyCreated.includes(option) ? {} : later) })
    }
    expect(sizes[1]).toEqual(sizes[0])
  })

  it.each(options)('a cluster with %s has its space when part of it is written', async (option) => {
    const folders = ['o', 'q'].map((whose) => join(folder, `parts-${whose}`))
    for (const cwd of folders) {
      mkdirSync(cwd, { recursive: true })
      const run = cwd.endsWith('q') ? theirs : ours
      await run('img', cwd, ['create', '-q', '-f', 'qcow2', '-o', option, 'i', '8M'])
      const writes = [
        'write 0 1k',
        'write -P 0 1M 3k',
        'write 3M 300k',
        'write 6M 1',
        'discard 1M 2M',
      ]
      await run('io', cwd, [...writes.flatMap((line) => ['-c', line]), 'i'])
    }
    expect(await difference('i', folders[0], folders[1], ['map'])).toBe(undefined)
  })
})

function taken(path: string) {
  const { size, blocks } = statSync(path)
  return { size, blocks }
}
