/**
 * Everything that can be done to a qcow2 image, mixed at random: done by varve to one image, by
 * QEMU's tools to another, and to plain buffers, which both images have to equal for both programs.
 * A failure prints a seed and a path: `VARVE_SEED=… VARVE_PATH=… VARVE_REPLAY=…` repeat it.
 * `VARVE_LONG=1` makes it long; `VARVE_STEPS` is the most commands of a run, `VARVE_RUNS` their number.
 */
import { mkdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { it } from 'vitest'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { runOurs, runTheirs } from '../support/img.ts'
import { modelCommands, type Workshop } from '../support/qcow2-model/commands.ts'
import { OurHand, TheirHand } from '../support/qcow2-model/hands.ts'
import { createImage, ImageFolder } from '../support/qcow2-model/image.ts'
import { judge } from '../support/qcow2-model/judge.ts'
import { createOptions, type Kind, kinds } from '../support/qcow2-model/kind.ts'
import { Reference, type Request } from '../support/qcow2-model/reference.ts'
import { Random, runSeed, seedNote } from '../support/random.ts'

const qemu = peer('qemu-img', 'qemu-io', 'qemu-storage-daemon')
const { VARVE_LONG, VARVE_STEPS, VARVE_RUNS, VARVE_PATH, VARVE_REPLAY } = process.env
const steps = Number(VARVE_STEPS ?? (VARVE_LONG ? 150 : 40))
const runs = Number(VARVE_RUNS ?? (VARVE_LONG ? 500 : 8))
/** No run, and no shrinking of one that failed, is begun later. */
const timeLimit = VARVE_LONG ? 3 * 60 * 60_000 : 15_000
const timeout = timeLimit + 60_000

const folder = scratchFolder('qcow2-model')

const plainKind: Kind = {
  size: 300 * 512,
  clusterSize: 4096,
  version: 3,
  refcountBits: 16,
  lazyRefcounts: false,
  extendedL2: false,
  compression: 'zlib',
  preallocation: 'off',
  encryption: 'none',
  dataFile: 'none',
  backing: undefined,
}

const rareKinds: Readonly<Record<string, Partial<Kind>>> = {
  'LUKS and a data file': { encryption: 'luks', dataFile: 'plain' },
  'LUKS and a raw data file': { encryption: 'luks', dataFile: 'raw' },
  'AES and a data file': { encryption: 'aes', dataFile: 'plain', backing: 512 * 200 },
  'LUKS, subclusters and a data file': {
    encryption: 'luks',
    dataFile: 'plain',
    extendedL2: true,
    clusterSize: 16_384,
  },
  'LUKS, subclusters and a backing file': {
    encryption: 'luks',
    extendedL2: true,
    clusterSize: 32_768,
    backing: 512 * 400,
  },
}

qemu.describe('a qcow2 image', () => {
  it(`is what plain buffers are, whatever is done to it (${seedNote})`, { timeout }, async () => {
    await tryAny(kinds, { maxCommands: steps, numRuns: runs, path: VARVE_PATH })
  })

  // The draw has these seldom. One of them is tried, or all.
  const rare = Object.entries(rareKinds)
  for (const [title, kind] of VARVE_LONG ? rare : [new Random().pick(rare)]) {
    it(`is so too, with ${title} (${seedNote})`, { timeout }, async () => {
      await tryAny(fc.constant({ ...plainKind, ...kind }), { maxCommands: 25, numRuns: 1 })
    })
  }
})

interface Extent {
  readonly maxCommands: number
  readonly numRuns: number
  readonly path?: string
}

async function tryAny(
  kind: fc.Arbitrary<Kind>,
  { maxCommands, numRuns, path }: Extent,
): Promise<void> {
  const end = Date.now() + timeLimit
  const property = fc.asyncProperty(
    kind,
    fc.commands(modelCommands, { maxCommands, size: 'max', replayPath: VARVE_REPLAY }),
    async (drawn, commands) => {
      // The rest counts as well; fast-check's own limit would leave the run under way to itself.
      if (Date.now() > end) return
      const { reference, workshop } = await begin(drawn)
      try {
        await fc.asyncModelRun(() => ({ model: reference, real: workshop }), commands)
        await judge(reference, workshop)
      } finally {
        await workshop.ours.close()
      }
    },
  )
  await fc.assert(property, {
    seed: runSeed,
    numRuns,
    path,
  })
}

async function begin(kind: Kind): Promise<{ reference: Reference; workshop: Workshop }> {
  const random = new Random(kind.size)
  const base = kind.backing === undefined ? undefined : Buffer.from(random.bytes(kind.backing))
  const reference = new Reference(kind, base)
  const make = async (name: string, by: typeof runOurs) => {
    const own = join(folder, name)
    rmSync(own, { recursive: true, force: true })
    mkdirSync(own)
    const image = new ImageFolder(own, kind)
    if (base) image.store('base', base)
    await createImage(image, createOptions(kind), by)
    return image
  }
  const ours = new OurHand(await make('ours', runOurs))
  const theirs = new TheirHand(await make('theirs', runTheirs))
  if (kind.encryption !== 'none' && (kind.preallocation !== 'off' || kind.dataFile === 'raw')) {
    // QEMU lets a guest read what the ciphers make of zeroes there.
    const zero: Request = { verb: 'zero', offset: 0, length: kind.size, unmap: false }
    for (const hand of [ours, theirs]) await hand.request(zero)
    reference.apply(zero)
  }
  return { reference, workshop: { ours, theirs, folder } }
}
