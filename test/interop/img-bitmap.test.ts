/**
 * `img bitmap` and `img convert --bitmaps` beside qemu-img: the same commands in two folders have
 * to say the same, and leave images that both programs read alike.
 */

import { execFileSync, spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { Pair, runOurs, runTheirs } from '../support/img.ts'
import { main } from '../support/main.ts'
import { Random, seedNote } from '../support/random.ts'

const qemu = peer('qemu-img', 'qemu-io')

let pair: Pair
beforeEach(() => {
  pair = new Pair()
})
afterEach(() => pair[Symbol.dispose]())

/** Made by qemu in both folders; the bitmaps that are named are left in use by a crash. */
function makeImage(name: string, options: readonly string[], bitmaps: readonly string[] = []) {
  for (const cwd of [pair.ours, pair.theirs]) {
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', ...options, name, '4M'], { cwd })
    for (const bitmap of bitmaps)
      execFileSync('qemu-img', ['bitmap', '--add', name, bitmap], { cwd })
  }
}

function crash(name: string) {
  for (const cwd of [pair.ours, pair.theirs]) {
    spawnSync('qemu-io', ['-c', 'write 0 64k', '-c', 'abort', name], { cwd })
  }
}

/** Node names that were made up, and what depends on the programs' allocation. */
function plain(text: string): string {
  return text.replace(/#block\d+/g, '#block').replace(/^(disk size|Image end offset): .*$/gm, '$1')
}

async function same(words: string, both = words) {
  const ours = await runOurs(pair.ours, words.split(' '))
  const theirs = await runTheirs(pair.theirs, both.split(' '))
  const result = (each: typeof ours) => [each.status, plain(each.stdout), plain(each.stderr)]
  expect(result(ours), words).toEqual(result(theirs))
  return ours
}

const long = 'x'.repeat(1024)

qemu.describe('img bitmap beside qemu-img', () => {
  it('says the same', async () => {
    makeImage('a.qcow2', [])
    makeImage('v2.qcow2', ['-o', 'compat=0.10'])
    makeImage('c.qcow2', ['-o', 'cluster_size=512'])
    makeImage('w.qcow2', ['-o', 'cluster_size=2M'])
    const lines = [
      '--add a.qcow2 b0',
      '--add a.qcow2 b0',
      '--add -g 512 --disable a.qcow2 b1',
      '--add --disable --enable -g 4k a.qcow2 b2',
      '--add -g 1000 a.qcow2 b3',
      '--add -g 256 a.qcow2 b3',
      '--add -g 4G a.qcow2 b3',
      '--add -g x a.qcow2 b3',
      '--add -g 2G a.qcow2 big',
      '--remove a.qcow2 none',
      '--clear a.qcow2 none',
      '--enable a.qcow2 none',
      '--disable a.qcow2 none',
      '--merge none a.qcow2 b0',
      '--merge b0 a.qcow2 none',
      '--merge b1 a.qcow2 b0',
      '--merge b0 a.qcow2 b1',
      '--merge b1 --merge b2 --disable a.qcow2 b0',
      '--disable a.qcow2 b2',
      '--clear a.qcow2 b1',
      'a.qcow2 b0',
      '--add a.qcow2',
      '--add a.qcow2 b0 c',
      '--add --remove a.qcow2 b9',
      '--remove -g 4k a.qcow2 b0',
      `--add a.qcow2 ${long}`,
      `--add a.qcow2 ${long.slice(1)}`,
      '--add a.qcow2 ',
      '--merge b1 -F qcow2 a.qcow2 b0',
      '--clear -b a.qcow2 a.qcow2 b0',
      '--merge b1 -b nope.qcow2 a.qcow2 b0',
      '--image-opts --add driver=qcow2,file.filename=a.qcow2 b6',
      '--image-opts -f qcow2 --add driver=qcow2,file.filename=a.qcow2 b6',
      '--add nope.qcow2 b7',
      '--bogus a.qcow2 b7',
      '--merge',
      '--add v2.qcow2 b0',
      '--add c.qcow2 b0',
      '--add w.qcow2 b0',
    ]
    for (const line of lines) await same(`bitmap ${line}`)
    for (const name of ['a', 'c', 'w', 'v2']) {
      await same(`info ${name}.qcow2`)
      await same(`info --output=json ${name}.qcow2`).catch((error) => {
        // Only the bytes on disk may differ.
        if (!/actual-size/.test(String(error))) throw error
      })
      await same(`check ${name}.qcow2`)
    }
  })

  it('treats bitmaps that a crash has left in use alike', async () => {
    makeImage('a.qcow2', [], ['b0', 'b1'])
    makeImage('other.qcow2', [], ['o'])
    crash('a.qcow2')
    const lines = [
      'info a.qcow2',
      'bitmap --enable a.qcow2 b0',
      'bitmap --clear a.qcow2 b0',
      'bitmap --merge b1 a.qcow2 b0',
      'bitmap --merge b1 -b a.qcow2 other.qcow2 o',
      'resize a.qcow2 8M',
      'convert --bitmaps -O qcow2 a.qcow2 b.qcow2',
      'convert --skip-broken-bitmaps -O qcow2 a.qcow2 b.qcow2',
      'bitmap --add a.qcow2 fresh',
      'convert --bitmaps --skip-broken-bitmaps -O qcow2 a.qcow2 b.qcow2',
      'info a.qcow2',
      'check a.qcow2',
      'bitmap --remove a.qcow2 b1',
      'bitmap --remove a.qcow2 b0',
      'resize a.qcow2 8M',
      'info a.qcow2',
      'info b.qcow2',
      'check a.qcow2',
      'check b.qcow2',
    ]
    for (const line of lines) await same(line)
  })

  it('stores none of an empty disk, which QEMU would not open any more', async () => {
    await pair.same('create -q -f qcow2 nothing.qcow2 0')
    const args = ['bitmap', '--add', 'nothing.qcow2', 'b']
    expect(await runOurs(pair.ours, args)).toMatchObject({ status: 0 })
    expect(await runTheirs(pair.theirs, args)).toMatchObject({ status: 0 })
    for (const folder of [pair.ours, pair.theirs]) {
      const shown = await runTheirs(folder, ['info', 'nothing.qcow2'])
      expect(shown).toMatchObject({ status: 0 })
      expect(shown.stdout).not.toContain('bitmaps')
    }
  })

  it('warns of bitmaps that were not kept up to date, and drops them', async () => {
    makeImage('a.qcow2', [], ['b0', 'b1'])
    for (const cwd of [pair.ours, pair.theirs]) {
      const bytes = readFileSync(join(cwd, 'a.qcow2'))
      bytes[95] = 0
      writeFileSync(join(cwd, 'a.qcow2'), bytes)
    }
    const lines = [
      'info a.qcow2',
      'check a.qcow2',
      'convert --bitmaps -O qcow2 a.qcow2 b.qcow2',
      'bitmap --add a.qcow2 b0',
      'info a.qcow2',
      'info b.qcow2',
    ]
    for (const line of lines) await same(line)
    expect((await runTheirs(pair.ours, ['check', '-q', 'a.qcow2'])).status).toBe(3)
  })

  it('copies bitmaps as it does', async () => {
    makeImage('a.qcow2', [], ['b0', 'b1', 'b2'])
    for (const cwd of [pair.ours, pair.theirs]) {
      execFileSync('qemu-img', ['bitmap', '--disable', 'a.qcow2', 'b1'], { cwd })
      execFileSync('qemu-io', ['-c', 'write 1M 200k', 'a.qcow2'], { cwd })
      execFileSync('qemu-img', ['create', '-q', '-f', 'raw', 'r.raw', '4M'], { cwd })
    }
    const lines = [
      'convert --bitmaps -O qcow2 a.qcow2 b.qcow2',
      'convert --bitmaps -n -O qcow2 a.qcow2 b.qcow2',
      'convert --bitmaps -O raw a.qcow2 b.raw',
      'convert --bitmaps -O qcow2 -f raw r.raw c.qcow2',
      'convert --bitmaps -O qcow2 -o compat=0.10 a.qcow2 c.qcow2',
      'convert --bitmaps -O qcow2 a.qcow2 a.qcow2 c.qcow2',
      'info b.qcow2',
      'check b.qcow2',
      'resize b.qcow2 8M',
      'resize --shrink b.qcow2 2M',
      'info b.qcow2',
      'check b.qcow2',
    ]
    for (const line of lines) await same(line)
    const dirty = await dirtyRanges(join(pair.ours, 'b.qcow2'), 'b0')
    expect(dirty).toEqual(await dirtyRanges(join(pair.theirs, 'b.qcow2'), 'b0'))
    expect(dirty).not.toEqual([])
  })
})

/** As qemu sees them. */
async function dirtyRanges(image: string, bitmap: string): Promise<number[][]> {
  const options = {
    driver: 'nbd',
    'x-dirty-bitmap': `qemu:dirty-bitmap:${bitmap}`,
    server: { type: 'unix', path: `${image}.sock` },
  }
  execFileSync('qemu-nbd', [
    '-r',
    '-f',
    'qcow2',
    '-B',
    bitmap,
    '--fork',
    '-k',
    `${image}.sock`,
    image,
  ])
  const map = execFileSync('qemu-img', [
    'map',
    '--output=json',
    '--image-opts',
    `driver=nbd,x-dirty-bitmap=${options['x-dirty-bitmap']},server.type=unix,server.path=${image}.sock`,
  ])
  const runs: { start: number; length: number; data: boolean }[] = JSON.parse(map.toString())
  return runs.filter(({ data }) => !data).map(({ start, length }) => [start, length])
}

qemu.describe('what a guest does', () => {
  it(`makes dirty what it makes dirty for qemu-io (${seedNote})`, async () => {
    const random = new Random()
    const size = 3 * 1024 * 1024 + 512
    for (const name of ['one', 'two', 'three']) {
      const cluster = random.pick([512, 4096, 65536])
      const image = `${name}.qcow2`
      const granularities = [512, 4096, 65536]
      for (const cwd of [pair.ours, pair.theirs]) {
        const create = ['create', '-q', '-f', 'qcow2', '-o', `cluster_size=${cluster}`, image]
        execFileSync('qemu-img', [...create, String(size)], { cwd })
        for (const each of granularities) {
          const add = ['bitmap', '--add', '-g', String(each), image, `g${each}`]
          execFileSync('qemu-img', add, { cwd })
        }
      }
      const commands: string[] = []
      let end = size
      for (let step = 0; step < 25; step++) {
        const [offset, length] = random.range(end, 512, 200_000)
        const [at, whole] = random.range(end - (end % cluster), cluster, 2 * cluster)
        const command = random.pick([
          `write ${offset} ${length}`,
          `write -z ${offset} ${length}`,
          `write -z -u ${offset} ${length}`,
          `discard ${offset} ${length}`,
          `discard ${at} ${whole}`,
          `write -c ${at} ${Math.min(whole, cluster)}`,
          `read ${offset} ${length}`,
          `write ${end} 512`,
          'flush',
          'truncate',
        ])
        if (command === 'truncate') end = 512 * (64 + random.below(12_000))
        commands.push('-c', command === 'truncate' ? `truncate ${end}` : command)
      }
      const words = ['-f', 'qcow2', ...(random.chance(0.5) ? ['-d', 'unmap'] : []), ...commands]
      const peerEnded = spawnSync('qemu-io', [...words, image], { cwd: pair.theirs })
      spawnSync(process.execPath, [main, 'io', ...words, image], { cwd: pair.ours })
      const check = ['check', image]
      expect((await runTheirs(pair.ours, check)).status, commands.join(' ')).toBe(0)
      // qemu-io 7.2 aborts on some of these, or takes what it wrote itself for corrupt (compressed
      // writes and shrinking), and leaves its bitmaps in use.
      const peerBroke = String(peerEnded.stderr).includes('Marking image as corrupt')
      if (peerEnded.signal !== null || peerBroke) continue
      for (const each of granularities) {
        const ours = await dirtyRanges(join(pair.ours, image), `g${each}`)
        const theirs = await dirtyRanges(join(pair.theirs, image), `g${each}`)
        expect(ours, `g${each}: ${words.join(' ')}`).toEqual(theirs)
      }
    }
  })
})

const sizes = [64 * 1024, 3 * 1024 * 1024 + 512, 40 * 1024 * 1024]

qemu.describe('random work on bitmaps', () => {
  it(`leaves both with the same dirty ranges (${seedNote})`, async () => {
    const random = new Random()
    for (let round = 0; round < 3; round++) {
      const size = sizes[random.below(sizes.length)]
      const cluster = [512, 4096, 65536][random.below(3)]
      const name = `r${round}.qcow2`
      const create = ['create', '-q', '-f', 'qcow2', '-o', `cluster_size=${cluster}`, name]
      for (const cwd of [pair.ours, pair.theirs]) {
        execFileSync('qemu-img', [...create, String(size)], { cwd })
      }
      const names = new Set<string>()
      for (let step = 0; step < 14; step++) {
        const kind = random.below(6)
        const bitmap = `b${random.below(3)}`
        const other = `b${random.below(3)}`
        const verb = ['add', 'remove', 'clear', 'enable', 'disable', 'merge'][kind]
        const granularity = 512 * 2 ** random.below(10)
        const action =
          verb === 'add'
            ? `--add -g ${granularity}`
            : verb === 'merge'
              ? `--merge ${other}`
              : `--${verb}`
        const { status } = await same(`bitmap ${action} ${name} ${bitmap}`)
        if (status === 0 && verb === 'add') names.add(bitmap)
        if (status === 0 && verb === 'remove') names.delete(bitmap)
        const [offset, length] = random.range(size, 512, 300_000)
        for (const cwd of [pair.ours, pair.theirs]) {
          execFileSync('qemu-io', ['-c', `write -q ${offset} ${length}`, name], { cwd })
        }
      }
      await same(`check ${name}`)
      await same(`info ${name}`)
      for (const bitmap of names) {
        const ours = await dirtyRanges(join(pair.ours, name), bitmap)
        expect(ours, bitmap).toEqual(await dirtyRanges(join(pair.theirs, name), bitmap))
      }
    }
  })
})
