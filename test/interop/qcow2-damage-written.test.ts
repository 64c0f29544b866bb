/**
 * Damage of every kind, met by writes: what `varve io` says it has written is there, what it was not
 * asked to write shows what it showed, and what it says is what the real qemu-io says, or one of the
 * differences below. VARVE_LONG=1 takes every kind of image.
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, vi } from 'vitest'
import { peer } from '../peers.ts'
import { contentOf, unreadable } from '../support/disk-content.ts'
import { scratchFolder } from '../support/folder.ts'
import { type Result, realIo, varveIo } from '../support/io-tools.ts'
import { Anatomy } from '../support/qcow2-anatomy.ts'
import { type Damage, damages, type Loss } from '../support/qcow2-damages.ts'
import { type Flavour, flavours } from '../support/qcow2-flavours.ts'
import { gallery, pathOf } from '../support/qcow2-gallery.ts'
import { Random, runSeed } from '../support/random.ts'

const qemu = peer('qemu-img', 'qemu-io')
const folder = scratchFolder('damage-written')
const long = process.env.VARVE_LONG !== undefined
/** The short share is the same every time; VARVE_SEED draws another one. */
const seed = long || process.env.VARVE_SEED !== undefined ? runSeed : 1
if (long) vi.setConfig({ testTimeout: 600_000 })

/** Why requests end otherwise, or something else is said. */
const differences: readonly {
  readonly why: string
  readonly applies: (ours: Result, theirs: Result) => boolean
}[] = [
  {
    why: 'what is broken is refused, or the whole image is; QEMU writes on',
    applies: (ours, theirs) => written(ours) < written(theirs) && ours.status === 1,
  },
  {
    why: 'QEMU gives the image up, having tried to write over metadata; here it is not tried',
    applies: (_, theirs) => gaveUp(theirs) && theirs.stderr.includes('Marking image as corrupt'),
  },
  {
    why: 'an image whose tables are lost is not opened for writing',
    applies: (ours) => /table offset invalid|table too large/.test(ours.stderr),
  },
  {
    why: 'counts and bitmaps that cannot be stored at the end are an error, in words of our own',
    applies: (ours, theirs) =>
      written(ours) === written(theirs) &&
      (theirs.stderr.includes('Lost persistent bitmaps') || endsWithPath(ours.stderr)),
  },
  {
    why: "offsets that files cannot have are damage here, and the system's error there",
    applies: (ours, theirs) => ours.status === 1 && theirs.stdout.includes('File too large'),
  },
  {
    why: 'QEMU aborts',
    applies: (_, theirs) => theirs.status < 0,
  },
]

/**
 * Entries that name the same cluster, where what is written to one of them shows in the other, and
 * clusters of data that are counted as free: nobody can tell, short of a check.
 */
const shared =
  /name one|names (another|data|noise)|in place of (data|an L2)|of noise|points elsewhere|refcount of zero|block full of noise|names the L1 table/

const imageOf = gallery(folder, seed)

qemu.describe(`damage that is met by writes (VARVE_SEED=${seed})`, () => {
  for (const [index, damage] of damages.entries()) {
    // The short share has every third kind.
    if (!long && index % 3 !== seed % 3) continue
    qemu.it(damage.title, async () => {
      const random = new Random(seed + index)
      const fitting = flavours.filter(({ has }) => damage.needs.every((need) => has.includes(need)))
      const chosen = long ? fitting : [random.pick(fitting)]
      for (const flavour of chosen) await compare(flavour, damage, random)
    })
  }
})

interface Write {
  readonly offset: number
  readonly length: number
  readonly pattern: number
}

/** A cluster in each eighth of the disk, where most of the damage is, and some bytes anywhere. */
function writesTo({ size, clusterSize }: Flavour, random: Random): Write[] {
  const clusters = Array.from({ length: 8 }, (_, part) => ({
    offset: Math.floor((size * part) / 8 / clusterSize) * clusterSize,
    length: clusterSize,
    pattern: 10 + part,
  }))
  return [...clusters, { offset: 512 * random.below(size / 512), length: 512, pattern: 50 }]
}

async function compare(flavour: Flavour, damage: Damage, random: Random): Promise<void> {
  const bytes = Buffer.from(await imageOf(flavour))
  const lost = damage.plant(new Anatomy(bytes), random)
  const file = join(folder, 'a.qcow2')
  const data = flavour.has.includes('data-file') ? readFileSync(dataFileOf(flavour)) : undefined
  const restore = () => {
    writeFileSync(file, bytes)
    if (data) writeFileSync(dataFileOf(flavour), data)
  }
  const note = `${damage.title}, ${flavour.name}`
  const writes = writesTo(flavour, random)
  const commands = writes.map(({ pattern, offset, length }) => [
    '-c',
    `write -P ${pattern} ${offset} ${length}`,
  ])
  const args = [...commands.flat(), '-c', 'flush', file]
  restore()
  const before = await shownBy(file)
  const ours = withoutTimes(await varveIo(args))
  const after = await shownBy(file)
  if (after && !shared.test(damage.title)) {
    expectWritten(after, ours, writes, note)
    if (before) expectKept(before, after, [...writes, ...lost], note)
  }
  restore()
  const theirs = withoutTimes(await realIo(args))
  restore()
  if (differences.some(({ applies }) => applies(ours, theirs))) return
  expect(ours, note).toEqual(theirs)
}

function dataFileOf(flavour: Flavour): string {
  return `${pathOf(folder, flavour)}.data`
}

async function shownBy(file: string): Promise<Buffer | undefined> {
  return await contentOf(file).catch(() => undefined)
}

/** What is said to be written, is: the later write where two overlap. */
function expectWritten(after: Buffer, ours: Result, writes: readonly Write[], note: string): void {
  const done = writes.filter(({ offset, length }) =>
    ours.stdout.includes(`wrote ${length}/${length} bytes at offset ${offset}\n`),
  )
  const shown = Buffer.from(after)
  const expected = Buffer.from(after)
  for (const { offset, length, pattern } of done) expected.fill(pattern, offset, offset + length)
  expect(shown.equals(expected), `${note}: what was written`).toBe(true)
}

/** What was neither written nor hit shows what it showed, and more can be read at most. */
function expectKept(before: Buffer, after: Buffer, touched: readonly Loss[], note: string): void {
  for (let at = 0; at < before.length; at += 512) {
    if (touched.some(({ offset, length }) => at >= offset && at < offset + length)) continue
    const was = before.subarray(at, at + 512)
    if (was.every((byte) => byte === unreadable)) continue
    expect(after.subarray(at, at + 512).equals(was), `${note}: at ${at}`).toBe(true)
  }
}

function withoutTimes(result: Result): Result {
  return { ...result, stdout: result.stdout.replace(/^.* ops; .*$/gm, 'ops') }
}

/** How many requests went well. */
function written({ stdout }: Result): number {
  return stdout.split('\n').filter((line) => line.startsWith('wrote ')).length
}

function gaveUp({ stdout }: Result): boolean {
  return stdout.includes('No medium found')
}

function endsWithPath(stderr: string): boolean {
  return /^qemu-io: \/.*a\.qcow2: /m.test(stderr)
}
