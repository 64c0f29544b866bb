/**
 * Damage of every kind, planted in images that either side has made: `check` says what qemu-img
 * says, and after `check -r all` both call the image clean, and nothing is lost that was not hit.
 */
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'vitest'
import { openDisk } from '../../src/disk.ts'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { runOurs, runTheirs } from '../support/img.ts'
import { realIo, varveIo } from '../support/io-tools.ts'
import { Anatomy } from '../support/qcow2-anatomy.ts'
import { type Damage, damages, type Loss } from '../support/qcow2-damages.ts'
import { type Flavour, flavours, type ImageTools, makeFlavour } from '../support/qcow2-flavours.ts'
import { Random, runSeed, seedNote } from '../support/random.ts'

const qemu = peer('qemu-img', 'qemu-io')
const folder = scratchFolder('qcow2-check')
const long = process.env.VARVE_LONG !== undefined

/** Where `check` says the same as qemu-img to the byte; docs/cli/img.md says where it says more. */
const sameTexts = new Set([
  'a refcount of zero',
  'a refcount that is too low',
  'a refcount that is too high',
  'a cluster that leaks',
  'an L1 entry without its mark',
  'an L2 entry with a wrong mark',
  'an L2 entry with reserved bits',
  'an L2 entry with low reserved bits',
])

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
  await makeFlavour(flavour, file, makers[maker], new Random(runSeed))
  return { flavour, bytes: readFileSync(file), content: await contentOf(file) }
}

qemu.describe(`check and repair (${seedNote})`, () => {
  for (const [index, damage] of damages.entries()) {
    qemu.it(damage.title, async () => {
      const random = new Random(runSeed + index)
      const fitting = flavours.filter(({ has }) => damage.needs.every((need) => has.includes(need)))
      const cases = fitting.flatMap((flavour) =>
        Object.keys(makers).map((maker) => [flavour, maker] as const),
      )
      for (const [flavour, maker] of long ? cases : random.shuffled([...cases]).slice(0, 1)) {
        await judge(await imageOf(flavour, maker), damage, random, `${maker}, ${flavour.name}`)
      }
    })
  }
})

async function judge(image: Made, damage: Damage, random: Random, note: string): Promise<void> {
  const bytes = Buffer.from(image.bytes)
  const lost = damage.plant(new Anatomy(bytes), random)
  const file = join(folder, 'a.qcow2')
  writeFileSync(file, bytes)
  if (sameTexts.has(damage.title) && image.flavour.name !== 'data file') {
    for (const words of [['check'], ['check', '--output=json'], ['check', '-q']]) {
      const ours = await runOurs(folder, [...words, 'a.qcow2'])
      expect(ours, `${note}: ${words}`).toEqual(await runTheirs(folder, [...words, 'a.qcow2']))
    }
  }
  const repaired = await runOurs(folder, ['check', '-r', 'all', 'a.qcow2'])
  const said = `${note}: ${repaired.stderr}${repaired.stdout}`
  expect(repaired.status, said).toBe(0)
  expect(await runOurs(folder, ['check', 'a.qcow2']), said).toMatchObject({ status: 0, stderr: '' })
  expect(await runTheirs(folder, ['check', 'a.qcow2']), said).toMatchObject({
    status: 0,
    stderr: '',
  })
  const content = await contentOf(file)
  blot(content, lost)
  const before = Buffer.from(image.content)
  blot(before, lost)
  expect(content.equals(before), said).toBe(true)
  rmSync(file)
}

function blot(content: Buffer, lost: readonly Loss[]): void {
  for (const { offset, length } of lost) content.subarray(offset, offset + length).fill(0)
}

/** What is read at once: 32 sectors. */
const pieceSize = 16 * 1024

/** The disk, sector by sector where it has to be: what cannot be read is lost, and only that. */
async function contentOf(file: string): Promise<Buffer> {
  await using disk = await openDisk(file, { format: 'qcow2', readOnly: true, backing: 'allow' })
  const content = Buffer.alloc(disk.size)
  const read = async (from: number, step: number, failed: (at: number) => Promise<unknown>) => {
    const end = Math.min(disk.size, from + 32 * step)
    for (let at = from; at < end; at += step) {
      await disk.read(at, content.subarray(at, at + step)).catch(() => failed(at))
    }
  }
  const sectors = (at: number) =>
    read(at, 512, async (sector) => content.fill(0xee, sector, sector + 512))
  for (let at = 0; at < disk.size; at += 32 * pieceSize) await read(at, pieceSize, sectors)
  return content
}

function must(
  run: (args: readonly string[]) => Promise<{ status: number; stdout: string; stderr: string }>,
): (args: readonly string[]) => Promise<void> {
  return async (args) => {
    const { status, stdout, stderr } = await run(args)
    if (status !== 0) throw new Error(`${args.join(' ')}: ${stdout}${stderr}`)
  }
}
