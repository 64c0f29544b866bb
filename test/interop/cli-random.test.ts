/**
 * Random command lines for qemu-img, qemu-io and (what it refuses) qemu-nbd, with every option, sound and not, over a folder of
 * images of every kind: the same output, complaints, status and files. The same with one image behind qemu-nbd.
 *
 * `VARVE_SEED` replays a run. `VARVE_LONG=1` goes on for minutes, `VARVE_LONG=600` for so many seconds.
 */
import { mkdirSync } from 'node:fs'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { imgLine } from '../support/cli-random/img-lines.ts'
import { ioLine } from '../support/cli-random/io-lines.ts'
import { nbdLine } from '../support/cli-random/nbd-lines.ts'
import type { Tool } from '../support/cli-random/programs.ts'
import { remoteLine } from '../support/cli-random/remote-lines.ts'
import { runRemote } from '../support/cli-random/remote-trial.ts'
import { type Finding, Trial } from '../support/cli-random/trial.ts'
import { makeWorld } from '../support/cli-random/world.ts'
import { scratchFolder } from '../support/folder.ts'
import { Random, runSeed } from '../support/random.ts'

const qemu = peer('qemu-img', 'qemu-io', 'qemu-nbd')
const { VARVE_LONG, VARVE_SEED } = process.env
const seconds = VARVE_LONG ? Math.max(120, Number(VARVE_LONG)) : undefined

/** The same run for everybody unless a long one is asked for. */
const firstSeed = VARVE_LONG || VARVE_SEED ? runSeed : 20

/** Lines between two fresh worlds: what earlier ones have made is part of it. */
const linesOfWorld = 25
const shortRun = { worlds: 3 }

/** What a long run divides its time among. */
const kinds = 4

const folder = scratchFolder('cli-random')
const cwd = process.cwd()

qemu.describe('random command lines', () => {
  beforeAll(() => {
    mkdirSync(`${folder}/pool`)
    makeWorld(`${folder}/pool`, { encrypted: seconds !== undefined })
  })
  afterAll(() => process.chdir(cwd))

  const timeout = ((seconds ?? 0) + 60) * 1000
  it.each(['img', 'io', 'nbd'] as const)(
    `of %s (VARVE_SEED=${firstSeed})`,
    { timeout },
    async (tool) => {
      await runAll(tool, plain(tool), shortRun.worlds)
    },
  )
  it(`of img and io with an image behind a server (VARVE_SEED=${firstSeed})`, {
    timeout,
  }, async () => {
    await runAll('remote', remote, 1)
  })
})

/** By program. */
const draw = {
  img: imgLine,
  io: ioLine,
  nbd: (random: Random) => nbdLine(random, `${folder}/socket`),
}

/** Draws a line, runs it, and tells what differed. */
type Step = (trial: Trial, random: Random) => Promise<Finding | undefined>

const plain =
  (tool: Tool): Step =>
  async (trial, random) =>
    await trial.run(tool, draw[tool](random), random.pick(['o', 'q']))

const remote: Step = async (trial, random) =>
  await runRemote(trial, remoteLine(random), random.pick(['o', 'q']))

async function runAll(name: string, draw: Step, worlds: number): Promise<void> {
  const end = Date.now() + ((seconds ?? 0) * 1000) / kinds
  const trial = new Trial(`${folder}/${name}`, `${folder}/pool`)
  for (let world = 0; seconds ? Date.now() < end : world < worlds; world++) {
    const seed = firstSeed + world
    const random = new Random(seed)
    trial.renew()
    for (let step = 0; step < linesOfWorld; step++) {
      const finding = await draw(trial, random)
      if (!finding) continue
      const { tool, args, ours, theirs, files } = finding
      const note = `VARVE_SEED=${seed}, line ${step}: ${tool} ${args.join(' ')}`
      expect({ ...ours, files }, note).toEqual({ ...theirs, files: undefined })
    }
  }
}
