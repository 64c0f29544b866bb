/**
 * Persistent bitmaps of images whose data lies in a file of its own, raw or not: two twins are worked
 * on by the two programs in turns, each time one by either. They have to stay alike.
 */
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, expect } from 'vitest'
import { peer } from '../peers.ts'
import { Pair, runOurs, runTheirs } from '../support/img.ts'
import { realIo, varveIo } from '../support/io-tools.ts'
import { Random, seedNote } from '../support/random.ts'

const qemu = peer('qemu-img', 'qemu-io', 'qemu-nbd')
const sessions = process.env.VARVE_LONG ? 60 : 5
const names = ['fine', 'coarse', 'more']

let pair: Pair
beforeEach(() => {
  pair = new Pair()
})
afterEach(() => pair[Symbol.dispose]())

interface Hand {
  img(folder: string, args: readonly string[]): ReturnType<typeof runOurs>
  io: typeof realIo
}

const varve: Hand = { img: runOurs, io: varveIo }
const theirs: Hand = { img: runTheirs, io: realIo }

const kinds: readonly (readonly [title: string, options: string])[] = [
  ['a data file', 'cluster_size=4k'],
  ['a raw data file', 'cluster_size=4k,data_file_raw=on'],
  ['a data file and subclusters', 'cluster_size=16k,extended_l2=on'],
  ['a raw data file and large clusters', 'data_file_raw=on'],
]

qemu.describe(`bitmaps of an image with a data file (${seedNote})`, () => {
  for (const [title, options] of kinds) {
    qemu.it(`are the same whoever has worked on it: ${title}`, async () => {
      const random = new Random()
      const size = 1024 * 1024 + 512 * random.below(100)
      const folders = [pair.ours, pair.theirs]
      for (const [index, hand] of [varve, theirs].entries()) {
        const all = `${options},data_file=${join(folders[index], 'd')}`
        const create = ['create', '-q', '-f', 'qcow2', '-o', all, 'a.qcow2', String(size)]
        await succeed(hand.img(folders[index], create))
      }
      const known = new Set<string>()
      for (let session = 0; session < sessions; session++) {
        const hands = random.shuffled([varve, theirs])
        const change = random.chance(0.5) ? bitmapChange(random, known) : undefined
        const requests = Array.from({ length: 1 + random.below(5) }, () => request(random, size))
        const note = `session ${session}: ${change?.join(' ')}; ${requests.join('; ')}`
        for (const [index, { img, io }] of hands.entries()) {
          const image = join(folders[index], 'a.qcow2')
          if (change) await succeed(img(folders[index], ['bitmap', ...change]), note)
          await succeed(io([...requests.flatMap((each) => ['-c', each]), image]), note)
        }
        await expectAlike(folders, [...known], options.includes('raw'), note)
      }
    })
  }
})

/** Of the bitmaps that are there; what it adds or removes is noted. */
function bitmapChange(random: Random, known: Set<string>): string[] {
  const name = random.pick(names)
  if (!known.has(name)) {
    known.add(name)
    return ['--add', '-g', String(random.pick([512, 4096, 65536])), 'a.qcow2', name]
  }
  const other = random.pick([...known])
  const choice = random.below(other === name ? 4 : 5)
  if (choice === 0) known.delete(name)
  return [
    ['--remove', 'a.qcow2', name],
    ['--clear', 'a.qcow2', name],
    ['--disable', 'a.qcow2', name],
    ['--enable', 'a.qcow2', name],
    ['--merge', other, 'a.qcow2', name],
  ][choice]
}

function request(random: Random, size: number): string {
  const [offset, length] = random.range(size, 512, 100_000)
  const choice = random.next()
  if (choice < 0.6) return `write -P ${1 + random.below(250)} ${offset} ${length}`
  if (choice < 0.75) return `write -z ${offset} ${length}`
  return choice < 0.85 ? `write -zu ${offset} ${length}` : `discard ${offset} ${length}`
}

async function expectAlike(
  folders: readonly string[],
  bitmaps: readonly string[],
  raw: boolean,
  note: string,
): Promise<void> {
  for (const folder of folders) {
    const check = { status: 0, stderr: '' }
    expect(await runTheirs(folder, ['check', 'a.qcow2']), note).toMatchObject(check)
    expect(await runOurs(folder, ['check', 'a.qcow2']), note).toMatchObject(check)
    await succeed(runTheirs(folder, ['convert', '-O', 'raw', 'a.qcow2', 'disk']), note)
    if (!raw) continue
    const [disk, data] = ['disk', 'd'].map((name) => readFileSync(join(folder, name)))
    // QEMU writes its last cluster whole.
    expect(data.length - disk.length, note).toBeGreaterThanOrEqual(0)
    const same = data.subarray(0, disk.length).equals(disk)
    expect(same, `${note}: the data file is the disk`).toBe(true)
  }
  const [one, other] = folders.map((folder) => readFileSync(join(folder, 'disk')))
  expect(one.equals(other), note).toBe(true)
  const shown = await Promise.all(folders.map((folder) => bitmapsShown(folder)))
  expect(shown[0], note).toEqual(shown[1])
  for (const bitmap of bitmaps) {
    const [first, second] = folders.map((folder) => dirtyMap(folder, bitmap))
    expect(first, `${note}: ${bitmap}`).toEqual(second)
  }
}

async function bitmapsShown(folder: string) {
  const { stdout } = await runTheirs(folder, ['info', '--output=json', 'a.qcow2'])
  const bitmaps: { name: string }[] = JSON.parse(stdout)['format-specific'].data.bitmaps ?? []
  return bitmaps.toSorted((one, other) => one.name.localeCompare(other.name))
}

/** As qemu sees it; its server ends with the one client. */
function dirtyMap(folder: string, bitmap: string): unknown {
  const socket = join(folder, 's')
  const image = join(folder, 'a.qcow2')
  const serve = ['-r', '-f', 'qcow2', '-B', bitmap, '--fork', '-k', socket, image]
  execFileSync('qemu-nbd', serve, { cwd: folder, stdio: 'ignore' })
  const options = `driver=nbd,x-dirty-bitmap=qemu:dirty-bitmap:${bitmap},server.type=unix`
  const map = ['map', '--output=json', '--image-opts', `${options},server.path=${socket}`]
  return JSON.parse(execFileSync('qemu-img', map, { cwd: folder }).toString())
}

async function succeed(
  outcome: Promise<{ status: number; stdout: string; stderr: string }>,
  note = '',
): Promise<void> {
  const { status, stdout, stderr } = await outcome
  expect(status, `${note}: ${stdout}${stderr}`).toBe(0)
}
