/** The files of two folders after the same command line: whether they hold the same. */
import { execFileSync } from 'node:child_process'
import { lstatSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { comparable, theirs } from './programs.ts'

/** What is where, and whether it was touched: device, place, size and times of each entry. */
export type Listing = ReadonlyMap<string, string>

export function listing(folder: string): Listing {
  const all = readdirSync(folder).sort()
  return new Map(
    all.map((name) => {
      const { ino, size, mtimeNs, ctimeNs, mode } = lstatSync(join(folder, name), { bigint: true })
      return [name, [ino, size, mtimeNs, ctimeNs, mode].join()]
    }),
  )
}

/** Names of entries that came, went, or may have been written to. */
export function changed(before: Listing, after: Listing): string[] {
  const names = new Set([...before.keys(), ...after.keys()])
  return [...names].filter((name) => before.get(name) !== after.get(name))
}

/** What the two files called `name` differ in; undefined when nothing. */
export async function difference(
  name: string,
  ourFolder: string,
  theirFolder: string,
  judges: readonly Judge[] = ['info', 'check', 'map'],
): Promise<string | undefined> {
  const [mine, other] = [ourFolder, theirFolder].map((folder) => bytesOf(join(folder, name)))
  if (!mine || !other)
    return mine === other ? undefined : `only ${mine ? 'ours' : 'theirs'} is there`
  if (mine.equals(other)) return undefined
  if (!isQcow2(mine) || !isQcow2(other)) {
    if (isLuks(mine) && isLuks(other)) return undefined
    return mine.length === other.length
      ? 'bytes differ'
      : `${mine.length} and ${other.length} bytes`
  }
  for (const judge of judges) {
    const [here, there] = await Promise.all(
      [ourFolder, theirFolder].map((folder) => judged(folder, judge, name)),
    )
    if (here !== there) return `${judge}: ours ${here}\ntheirs ${there}`
  }
  const compared = await theirs('img', theirFolder, ['compare', '-U', name, join(ourFolder, name)])
  // An encrypted image does not open without its key, a damaged one not at all; both alike.
  if (compared.status === 1) return compared.stdout + compared.stderr
  return undefined
}

/** What qemu-img is asked about an image. */
export type Judge = 'info' | 'check' | 'map'

const words: Readonly<Record<Judge, readonly string[]>> = {
  info: ['info', '-U', '-f', 'qcow2', '--output=json'],
  check: ['check', '-U', '-f', 'qcow2', '--output=json'],
  map: ['map', '-U', '--output=json'],
}

const volatile: readonly (readonly [RegExp, string])[] = [
  // Where clusters lie, and thereby what is kept, is the allocator's choice.
  [/, "offset": \d+/g, ''],
  [/ *"(image-end-offset|fragmented-clusters|allocated-clusters|offset)": \d+,?\n/g, ''],
  [/,\n\}/g, '\n}'],
  [/"(uuid|master-key-iters|iters|key-offset|payload-offset)": [^,\n]+/g, '"$1": 0'],
  [/"(vm-state-size|vm-clock-n?sec)": \d+/g, '"$1": 0'],
]

async function judged(folder: string, judge: Judge, name: string): Promise<string> {
  const answer = comparable(await theirs('img', folder, [...words[judge], name]))
  const { status, stdout, stderr } = answer
  const text = volatile.reduce((so, [pattern, to]) => so.replaceAll(pattern, to), stdout)
  return `${status} ${judge === 'map' ? joined(text) : text}${stderr}`
}

/** Lines of a map that say the same, whatever file they lie in, as one. */
function joined(map: string): string {
  const rows: string[][] = []
  for (const [, start, length, rest] of map.matchAll(/"start": (\d+), "length": (\d+), (.*)\}/g)) {
    const last = rows.at(-1)
    if (last?.[2] === rest) last[1] = String(Number(last[1]) + Number(length))
    else rows.push([start, length, rest])
  }
  return rows.map((row) => row.join(' ')).join('\n')
}

function bytesOf(path: string): Buffer | undefined {
  const stat = lstatSync(path, { throwIfNoEntry: false })
  if (!stat?.isFile()) return stat && Buffer.from(String(stat.mode))
  return readFileSync(path)
}

const isQcow2 = (bytes: Buffer) => bytes.toString('latin1', 0, 4) === 'QFI\xfb'
const isLuks = (bytes: Buffer) => bytes.toString('latin1', 0, 4) === 'LUKS'

/** Makes entries of `to` as they are in `from`, holes included. */
export function bring(names: readonly string[], from: string, to: string): void {
  if (names.length === 0) return
  execFileSync('rm', ['-rf', '--', ...names], { cwd: to })
  const there = names.filter((name) => lstatSync(join(from, name), { throwIfNoEntry: false }))
  if (there.length > 0) execFileSync('cp', ['-a', '--', ...there, to], { cwd: from })
}
