/**
 * Random command lines for qemu-img, qemu-io and (what it refuses) qemu-nbd, with every option, sound and not, over a folder of
 * images of every kind: the same output, complaints, status and files.
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
import { Trial } from '../support/cli-random/trial.ts'
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

const folder = scratchFolder('cli-random')
const cwd = process.cwd()

qemu.describe('random command lines', () => {
  beforeAll(() => {
    mkdirSync(`${folder}/pool`)
    makeWorld(`${folder}/pool`, { encrypted: seconds !== undefined })
  })
  afterAll(() => process.chdir(cwd))

  const timeout = ((seconds ?? 0) + 60) * 1000
  it.each(['img', 'io', 'nbd'] as const)(`of %s (VARVE_SEED=${firstSeed})`, { timeout }, runAll)
})

/** By program. */
const draw = {
  img: imgLine,
  io: ioLine,
  nbd: (random: Random) => nbdLine(random, `${folder}/socket`),
}

async function runAll(tool: Tool): Promise<void> {
  const end = Date.now() + ((seconds ?? 0) * 1000) / 3
  const trial = new Trial(`${folder}/${tool}`, `${folder}/pool`)
  for (let world = 0; seconds ? Date.now() < end : world < shortRun.worlds; world++) {
    const seed = firstSeed + world
    const random = new Random(seed)
    trial.renew()
    for (let step = 0; step < linesOfWorld; step++) {
      const line = draw[tool](random)
      const finding = await trial.run(tool, line, random.pick(['o', 'q']))
      if (!finding) continue
      const { ours, theirs, files } = finding
      const note = `VARVE_SEED=${seed}, line ${step}: ${tool} ${line.join(' ')}`
      expect({ ...ours, files }, note).toEqual({ ...theirs, files: undefined })
    }
  }
}
