/**
 * Damage of every kind, met by reads: `varve io` and the real qemu-io fail the same requests, say the
 * same on standard error, and exit alike. VARVE_LONG=1 takes every kind of image.
 */
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, vi } from 'vitest'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { type Result, realIo, varveIo } from '../support/io-tools.ts'
import { Anatomy } from '../support/qcow2-anatomy.ts'
import { type Damage, damages } from '../support/qcow2-damages.ts'
import { type Flavour, flavours } from '../support/qcow2-flavours.ts'
import { gallery } from '../support/qcow2-gallery.ts'
import { Random, runSeed } from '../support/random.ts'

const qemu = peer('qemu-img', 'qemu-io')
const folder = scratchFolder('damage-met')
const long = process.env.VARVE_LONG !== undefined
/** The short share is the same every time; VARVE_SEED draws another one. */
const seed = long || process.env.VARVE_SEED !== undefined ? runSeed : 1
if (long) vi.setConfig({ testTimeout: 600_000 })

/** Where QEMU reads on, and what it shows is not what was written. */
const refusedByUs: readonly { readonly why: string; readonly titles: RegExp }[] = [
  {
    why: 'entries with reserved bits are refused; QEMU passes over the bits',
    titles: /^an L[12] entry (with (low )?reserved bits|of noise)$/,
  },
  {
    why: 'what lies behind the end of the file, or beyond 2^53, is lost; QEMU shows zeroes',
    titles: /^an? (L[12]|compressed) entry (behind the end of the file|beyond 2\^53)$/,
  },
  {
    why: 'a disk whose L1 table is lost is not opened, or cannot be read; QEMU shows zeroes',
    titles: /^an L1 table (behind|beyond|in |that is longer)/,
  },
  {
    why: 'L1 entries that lead to no L2 table show that in each of its entries',
    titles: /^an L1 entry that (names|is not aligned)|^an L2 table of noise/,
  },
  {
    why: 'subclusters of compressed data contradict each other',
    titles: /^subclusters of compressed data$/,
  },
  {
    why: 'bits of a bitmap that are lost are not taken for clear',
    titles: /^a bitmap table entry behind the end of the file$/,
  },
]

const imageOf = gallery(folder, seed)

qemu.describe(`damage that is met by reads (VARVE_SEED=${seed})`, () => {
  for (const [index, damage] of damages.entries()) {
    qemu.it(damage.title, async () => {
      const random = new Random(seed + index)
      const fitting = flavours.filter(({ has }) => damage.needs.every((need) => has.includes(need)))
      const chosen = long ? fitting : [random.pick(fitting)]
      for (const flavour of chosen) await compare(flavour, damage, random)
    })
  }
})

async function compare(flavour: Flavour, damage: Damage, random: Random): Promise<void> {
  const bytes = Buffer.from(await imageOf(flavour))
  damage.plant(new Anatomy(bytes), random)
  const file = join(folder, 'a.qcow2')
  const pieces = 8
  const piece = flavour.size / pieces
  const reads = Array.from({ length: pieces }, (_, at) => ['-c', `read ${at * piece} ${piece}`])
  const args = ['-r', ...reads.flat(), file]
  writeFileSync(file, bytes)
  const ours = await varveIo(args)
  writeFileSync(file, bytes)
  const theirs = await realIo(args)
  const note = `${damage.title}, ${flavour.name}`
  if (refusedByUs.some(({ titles }) => titles.test(damage.title))) {
    expect(failures(ours), note).toBeGreaterThanOrEqual(failures(theirs))
  } else {
    expect(ours, note).toEqual(theirs)
  }
}

/** Requests that failed; all of them where the image was not opened. */
function failures({ stdout }: Result): number {
  return (
    8 - stdout.split('\n').filter((line) => line.startsWith('read ') && line.includes('/')).length
  )
}
