/** Where a data file with a relative name is looked for: in the current folder, as by QEMU. */
import { mkdirSync, renameSync } from 'node:fs'
import { join } from 'node:path'
import { beforeEach, expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { ours, theirs } from '../support/cli-random/programs.ts'
import { scratchFolder } from '../support/folder.ts'

const qemu = peer('qemu-img', 'qemu-io')
const root = scratchFolder('data-file-names')
let folder = ''
let count = 0

beforeEach(() => {
  folder = join(root, String(count++))
  mkdirSync(join(folder, 'sub'), { recursive: true })
})

const create = ['create', '-q', '-f', 'qcow2', '-o', 'data_file=x.data', 'sub/image', '1M']

qemu.describe('a data file', () => {
  it.each([
    ['varve', ours],
    ['QEMU', theirs],
  ])('that %s makes is found by both in the current folder', async (_, maker) => {
    expect(await maker('img', folder, create)).toMatchObject({ status: 0, stderr: '' })
    const write = await ours('io', folder, ['-c', 'write -P 7 0 64k', 'sub/image'])
    expect(write).toMatchObject({ status: 0 })
    const read = ['-r', '-c', 'read -P 7 0 64k', 'sub/image']
    expect(await theirs('io', folder, read)).toMatchObject({ status: 0 })
  })

  it('beside its image is found by varve alone', async () => {
    await theirs('img', folder, create)
    renameSync(join(folder, 'x.data'), join(folder, 'sub/x.data'))
    const words = ['-c', 'length', 'sub/image']
    expect(await ours('io', folder, words)).toMatchObject({ stdout: '1 MiB\n' })
    expect(await theirs('io', folder, words)).toMatchObject({ status: 1 })
  })

  it('that is nowhere is told of by its name', async () => {
    await theirs('img', folder, create)
    renameSync(join(folder, 'x.data'), join(folder, 'y.data'))
    const words = ['-c', 'length', 'sub/image']
    const plain = (text: string) => text.replace('varve-io', 'qemu-io')
    const { stderr } = await theirs('io', folder, words)
    expect(plain((await ours('io', folder, words)).stderr)).toBe(stderr)
  })
})
