/**
 * Damage of every kind, planted in images that either side has made: `check` says what qemu-img
 * says, so does `check -r all` where qemu-img's succeeds, and after ours both call the image clean,
 * and nothing is lost that was not hit. VARVE_LONG=1 takes every kind of image.
 */
import { readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, vi } from 'vitest'
import { type Outcome, peer } from '../peers.ts'
import { contentOf } from '../support/disk-content.ts'
import { scratchFolder } from '../support/folder.ts'
import { runOurs, runTheirs } from '../support/img.ts'
import { realIo, varveIo } from '../support/io-tools.ts'
import { Anatomy } from '../support/qcow2-anatomy.ts'
import { type Damage, damages, type Loss } from '../support/qcow2-damages.ts'
import { type Flavour, flavours, type ImageTools, makeFlavour } from '../support/qcow2-flavours.ts'
import { Random, runSeed } from '../support/random.ts'

const qemu = peer('qemu-img', 'qemu-io')
const folder = scratchFolder('qcow2-check')
const long = process.env.VARVE_LONG !== undefined
/** The short share is the same every time; VARVE_SEED draws another one. */
const seed = long || process.env.VARVE_SEED !== undefined ? runSeed : 1

/** Where what is said may differ from qemu-img, and why; docs/cli/img.md says it to users. */
const differences: readonly {
  readonly why: string
  readonly applies: (ours: Outcome, theirs: Outcome) => boolean
}[] = [
  {
    why: 'qemu-img does not see that an entry of a data file leads to another place of it',
    applies: (ours) => ours.stderr.includes('does not lie where it does on the disk'),
  },
  {
    why: 'qemu-img does not open an image with a broken bitmap table; this one repairs it',
    applies: (_, theirs) => theirs.stderr.includes('Could not read bitmap_table table'),
  },
  {
    why: 'which of several references to a cluster is one too many for its refcount',
    applies: (ours, theirs) =>
      ours.status === theirs.status &&
      [ours, theirs].every(({ stderr }) => stderr.includes('overflow cluster offset')),
  },
  {
    why: 'qemu-img marks bitmaps as in use before it looks at anything, which lost refcounts do not let it',
    applies: (_, theirs) => theirs.stderr.includes("Can't update bitmap directory"),
  },
  {
    why: 'the flags of very many entries of noise are not all told of besides, while counts are wrong',
    applies: (ours, theirs) =>
      ours.status === theirs.status &&
      theirs.stderr.split('OFLAG_COPIED').length - ours.stderr.split('OFLAG_COPIED').length > 500,
  },
  {
    why: 'qemu-img aborts',
    applies: (_, theirs) => theirs.status === -1,
  },
  {
    why: 'refcounts beyond 2^53 are rounded',
    applies: (_, theirs) => /refcount=\d{17}/.test(theirs.stderr),
  },
  {
    why: 'an L1 table of a snapshot beyond 2^53 is not looked at',
    applies: (ours) => ours.stderr.includes('numbers beyond 2^53'),
  },
  {
    why: 'what begins inside the file and ends a little behind it counts there for qemu-img',
    applies: (ours, theirs) =>
      ours.stderr.includes('exceeding the end') && !theirs.stderr.includes('exceeding the end'),
  },
  {
    why: 'of very many broken entries of the refcount table, or of any, some are counted and not told',
    applies: (ours) =>
      ours.stderr.includes('further messages are left out') ||
      ours.stderr.split(/refcount (?:table entry|block)/).length > 10_000,
  },
]

/** The same for `-r all`, when qemu-img's repair has succeeded and nothing was lost. */
const repairDifferences: typeof differences = [
  ...differences,
  {
    why: 'qemu-img leaves entries that lead into metadata, as data with two references',
    applies: (ours) =>
      /in place of (other )?metadata|where something else is|is not inside the file/.test(
        ours.stderr,
      ),
  },
  {
    why: 'tables that the header leads to no more are looked for; qemu-img gives up what they lead to',
    applies: (ours) => /Repairing (L1|snapshot) table:/.test(ours.stderr),
  },
  {
    why: 'refcounts of which a part is outside the file are written anew without a look at the rest',
    applies: (ours, theirs) =>
      ours.stderr.includes('exceeding the end') &&
      /refcount (table entry|block)/.test(theirs.stderr),
  },
  {
    why: 'what leads onto the refcount structures has them written anew elsewhere',
    applies: (ours, theirs) =>
      ours.stderr.includes('Rebuilding') && !theirs.stderr.includes('Rebuilding'),
  },
  {
    why: 'qemu-img makes the file reach to blocks behind its end, or tries to',
    applies: (_, theirs) => /Repairing refcount block \d+ is outside image/.test(theirs.stderr),
  },
  {
    why: 'an entry that is given up is reported once',
    applies: (ours) => ours.stderr.includes('Repairing found l2 entry with reserved bits'),
  },
  {
    why: 'qemu-img counts no more references than refcounts have bits, and gives some up',
    applies: (_, theirs) => theirs.stderr.includes('overflow cluster offset'),
  },
  {
    why: 'entries of data files that are given up keep the one place that they can have',
    applies: (ours, theirs) =>
      ours.stderr === theirs.stderr &&
      withoutCounts(ours.stdout) === withoutCounts(theirs.stdout) &&
      ours.stderr.includes('L2 entry corrupted'),
  },
  {
    why: "while not all snapshots can be counted their table goes behind the end, in nobody's way",
    applies: (ours, theirs) =>
      ours.stderr.includes('Discarding too much extra') &&
      withoutEnd(ours.stdout) === withoutEnd(theirs.stdout) &&
      ours.stderr === theirs.stderr,
  },
  {
    why: 'each broken entry of the refcount table counts as one corruption that is repaired',
    applies: (ours) => ours.stderr.includes('refcount table entry'),
  },
]

/** The same for `-r leaks`. */
const leakDifferences: typeof differences = [
  ...differences,
  {
    why: 'while something is broken nothing is freed, for it may be what that meant',
    applies: (ours, theirs) =>
      ours.status === theirs.status &&
      theirs.stderr.split('Repairing cluster').length >
        ours.stderr.split('Repairing cluster').length,
  },
  {
    why: 'qemu-img writes bitmaps into images whose refcounts are lost, or tries to',
    applies: (_, theirs) => theirs.stderr.includes('Lost persistent bitmaps'),
  },
  {
    why: 'clusters whose refcount cannot be read are told once',
    applies: (ours, theirs) =>
      ours.status === theirs.status && theirs.stderr.includes("Can't get refcount for cluster"),
  },
  {
    why: 'bitmaps that are refused as unsupported, refused by the check itself',
    applies: (_, theirs) => theirs.stderr.includes('Bitmap extra data is not supported'),
  },
]

function withoutCounts(shown: string): string {
  return shown.replace(/.* allocated.*\n/, '')
}

function withoutEnd(shown: string): string {
  return shown.replace(/Image end offset: \d+/, '')
}

/** Where qemu-img makes a file of 256 GiB, it takes its time. */
if (long) vi.setConfig({ testTimeout: 600_000 })

const makers: Readonly<Record<string, ImageTools>> = {
  varve: { img: must((args) => runOurs(folder, args)), io: must(varveIo) },
  qemu: { img: must((args) => runTheirs(folder, args)), io: must(realIo) },
}

interface Made {
  readonly flavour: Flavour
  readonly bytes: Buffer
  readonly content: Buffer
}

const made = new Map<string, Promise<Made>>()

function imageOf(flavour: Flavour, maker: string): Promise<Made> {
  const key = `${maker}-${flavour.name.replaceAll(' ', '-')}`
  const known = made.get(key) ?? make(flavour, maker, join(folder, `${key}.qcow2`))
  made.set(key, known)
  return known
}

async function make(flavour: Flavour, maker: string, file: string): Promise<Made> {
  await makeFlavour(flavour, file, makers[maker], new Random(seed))
  return { flavour, bytes: readFileSync(file), content: await contentOf(file) }
}

qemu.describe(`check and repair (VARVE_SEED=${seed})`, () => {
  for (const [index, damage] of damages.entries()) {
    qemu.it(damage.title, async () => {
      const random = new Random(seed + index)
      const fitting = flavours.filter(({ has }) => damage.needs.every((need) => has.includes(need)))
      const cases = fitting.flatMap((flavour) =>
        Object.keys(makers).map((maker) => [flavour, maker] as const),
      )
      for (const [flavour, maker] of long ? cases : random.shuffled([...cases]).slice(0, 1)) {
        await judge(await imageOf(flavour, maker), damage, random, `${maker}, ${flavour.name}`)
      }
    })
  }

  qemu.it('several at once', async () => {
    const random = new Random(seed)
    for (let round = 0; round < (long ? 300 : 4); round++) {
      const flavour = random.pick(flavours)
      const maker = random.pick(Object.keys(makers))
      const several = random.shuffled([...damages]).slice(0, 12)
      const fitting = several
        .filter(({ needs }) => needs.every((need) => flavour.has.includes(need)))
        .slice(0, 2 + random.below(2))
      const note = `round ${round}: ${fitting.map(({ title }) => title).join(', ')}`
      const image = await imageOf(flavour, maker)
      await judge(image, together(fitting), random, `${maker}, ${flavour.name}, ${note}`)
    }
  })
})

const severalDamages = 'several'

/** qemu-img makes a file of 256 GiB of such an image, which takes its time. */
const blowsUp = /refcount table entry behind the end of the file/

/** Anything may be lost. Where one damage finds nothing in its place any more, it is left out. */
function together(several: readonly Damage[]): Damage {
  return {
    title: severalDamages,
    needs: [],
    plant: (image, random) => {
      for (const { plant } of several) {
        const before = Buffer.from(image.bytes)
        try {
          plant(image, random)
        } catch {
          image.bytes.set(before)
        }
      }
      return [{ offset: 0, length: image.size }]
    },
  }
}

async function judge(image: Made, damage: Damage, random: Random, note: string): Promise<void> {
  const bytes = Buffer.from(image.bytes)
  const lost = damage.plant(new Anatomy(bytes), random)
  const file = join(folder, 'a.qcow2')
  writeFileSync(file, bytes)
  for (const words of [['check'], ['check', '--output=json'], ['check', '-q']]) {
    const ours = await runOurs(folder, [...words, 'a.qcow2'])
    expectSame(
      ours,
      await runTheirs(folder, [...words, 'a.qcow2']),
      differences,
      `${note} ${words}`,
    )
  }
  const leaks = ['check', '-r', 'leaks', 'a.qcow2']
  const theyFreed = await runTheirs(folder, leaks)
  writeFileSync(file, bytes)
  expectSame(await runOurs(folder, leaks), theyFreed, leakDifferences, `${note} -r leaks`)
  expect(await isReadAs(file, bytes), `${note} -r leaks`).toBe(true)
  writeFileSync(file, bytes)
  const comparable = damage.title !== severalDamages && !blowsUp.test(damage.title)
  const theirs = comparable ? await runTheirs(folder, ['check', '-r', 'all', 'a.qcow2']) : undefined
  const theyDid = theirs?.status === 0 && (await isRepaired(image, file, lost))
  writeFileSync(file, bytes)
  const repaired = await runOurs(folder, ['check', '-r', 'all', 'a.qcow2'])
  const said = `${note}: ${repaired.stderr}${repaired.stdout}`
  // Of several damages one may have hit the header.
  if (damage.title === severalDamages && repaired.stderr.includes('Could not open')) return
  expect(repaired.status, said).toBe(0)
  expect(await runOurs(folder, ['check', 'a.qcow2']), said).toMatchObject({ status: 0, stderr: '' })
  expect(await runTheirs(folder, ['check', 'a.qcow2']), said).toMatchObject({
    status: 0,
    stderr: '',
  })
  expect(await isKept(image, file, lost), said).toBe(true)
  if (theirs && theyDid) expectSame(repaired, theirs, repairDifferences, `${note} -r all`)
  rmSync(file)
}

function expectSame(
  ours: Outcome,
  theirs: Outcome,
  excuses: typeof differences,
  note: string,
): void {
  if (excuses.some(({ applies }) => applies(ours, theirs))) return
  expect(ours, note).toEqual(theirs)
}

/** Whether qemu-img's repair is one: it leaves no fault, loses nothing, and does not blow the file up. */
async function isRepaired(image: Made, file: string, lost: readonly Loss[]): Promise<boolean> {
  if (statSync(file).size > 2 * image.bytes.length + 1024 * 1024) return false
  if ((await runOurs(folder, ['check', 'a.qcow2'])).status !== 0) return false
  return isKept(image, file, lost)
}

/** Whether an image shows what it shows as it was, whatever that is worth. */
async function isReadAs(file: string, before: Buffer): Promise<boolean> {
  const now = await shownBy(file)
  writeFileSync(file, before)
  const then = await shownBy(file)
  return now === undefined ? then === undefined : then !== undefined && now.equals(then)
}

async function shownBy(file: string): Promise<Buffer | undefined> {
  return await contentOf(file).catch(() => undefined)
}

async function isKept(image: Made, file: string, lost: readonly Loss[]): Promise<boolean> {
  const content = await contentOf(file)
  blot(content, lost)
  const before = Buffer.from(image.content)
  blot(before, lost)
  return content.equals(before)
}

function blot(content: Buffer, lost: readonly Loss[]): void {
  for (const { offset, length } of lost) content.subarray(offset, offset + length).fill(0)
}

function must(
  run: (args: readonly string[]) => Promise<{ status: number; stdout: string; stderr: string }>,
): (args: readonly string[]) => Promise<void> {
  return async (args) => {
    const { status, stdout, stderr } = await run(args)
    if (status !== 0) throw new Error(`${args.join(' ')}: ${stdout}${stderr}`)
  }
}
