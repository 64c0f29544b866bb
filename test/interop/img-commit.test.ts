/** `img commit` and qemu-img's: the same words, statuses and images. */
import { execFileSync } from 'node:child_process'
import { copyFileSync, mkdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { runOurs, runTheirs } from '../support/img.ts'
import { Random, runSeed, seedNote } from '../support/random.ts'

const qemuImg = peer('qemu-img', 'qemu-io')

qemuImg.describe('img commit', () => {
  const folder = scratchFolder('img-commit')
  const names = ['base.qcow2', 'mid.qcow2', 'top.qcow2']

  function prepare(
    round: number,
    random: Random,
    options: readonly string[] = [],
  ): [string, string] {
    const [theirs, ours] = ['theirs', 'ours'].map((side) => join(folder, `${round}-${side}`))
    mkdirSync(theirs)
    mkdirSync(ours)
    const run = (program: string, ...args: string[]) => execFileSync(program, args, { cwd: theirs })
    let below: string[] = []
    for (const [index, name] of names.entries()) {
      run('qemu-img', 'create', '-q', '-f', 'qcow2', ...options, ...below, name, `${4 + index}M`)
      below = ['-b', name, '-F', 'qcow2']
      for (let step = 0; step < 6; step++) {
        const [offset, length] = random.range(4 << 20, 512, 1 << 20)
        const zero =
          random.chance(0.3) && !options.includes('compat=0.10')
            ? '-z'
            : `-P ${random.below(255) + 1}`
        run('qemu-io', '-c', `write -q ${zero} ${offset} ${length}`, name)
      }
    }
    for (const name of names) copyFileSync(join(theirs, name), join(ours, name))
    return [theirs, ours]
  }

  async function both(folders: readonly [string, string], args: readonly string[]) {
    const theirs = await runTheirs(folders[0], ['commit', ...args])
    expect(await runOurs(folders[1], ['commit', ...args]), args.join(' ')).toEqual(theirs)
  }

  function compare([theirs, ours]: readonly [string, string]): void {
    for (const name of names) {
      const files = [join(theirs, name), join(ours, name)]
      execFileSync('qemu-img', ['check', '-q', files[1]])
      execFileSync('qemu-img', ['compare', '-q', ...files])
      const sizes = files.map(
        (file) =>
          JSON.parse(
            execFileSync('qemu-img', ['info', '--output=json', file], { encoding: 'utf8' }),
          )['virtual-size'],
      )
      expect(sizes[1]).toBe(sizes[0])
    }
  }

  it.each([
    ['top.qcow2'],
    ['-d', 'top.qcow2'],
    ['-b', 'base.qcow2', 'top.qcow2'],
    ['-b', 'mid.qcow2', '-q', 'top.qcow2'],
    ['-r', '100M', '-t', 'none', 'top.qcow2'],
    ['--image-opts', 'driver=qcow2,file.filename=top.qcow2'],
    ['mid.qcow2'],
  ])(`commits alike (%s %s %s, ${seedNote})`, async (...args) => {
    const round = count++
    const folders = prepare(
      round,
      new Random(runSeed + round),
      round % 3 === 2 ? ['-o', 'compat=0.10'] : [],
    )
    await both(
      folders,
      args.filter((word) => word !== undefined),
    )
    compare(folders)
    if (args[0] === 'top.qcow2') {
      expect(statSync(join(folders[1], 'top.qcow2')).size).toBe(
        statSync(join(folders[0], 'top.qcow2')).size,
      )
    }
  })
  let count = 0

  it('empties an image with a snapshot, which keeps its data', async () => {
    const folders = prepare(100, new Random(runSeed))
    for (const each of folders)
      execFileSync('qemu-img', ['snapshot', '-c', 's', join(each, 'top.qcow2')])
    await both(folders, ['top.qcow2'])
    compare(folders)
    for (const each of folders)
      execFileSync('qemu-img', ['snapshot', '-a', 's', join(each, 'top.qcow2')])
    compare(folders)
  })

  it('refuses alike', async () => {
    const folders = prepare(101, new Random(runSeed))
    for (const args of [
      [],
      ['a', 'b'],
      ['nonexistent'],
      ['base.qcow2'],
      ['-b', 'zz', 'top.qcow2'],
      ['-b', 'top.qcow2', 'top.qcow2'],
      ['-t', 'x', 'top.qcow2'],
      ['-r', 'x', 'top.qcow2'],
      ['-f', 'x', 'top.qcow2'],
      ['-f', 'raw', 'top.qcow2'],
      ['-x'],
      ['-b'],
      ['--image-opts', '-f', 'qcow2', 'driver=qcow2,file.filename=top.qcow2'],
    ]) {
      await both(folders, args)
    }
    compare(folders)
  })
})
