/**
 * Random command lines of `varve nbd` and qemu-nbd that serve an image, and clients that look at it and
 * write to it, one after the other: the same answers, the same end, the same files.
 *
 * `VARVE_SEED` replays a run. `VARVE_LONG=1` goes on for two minutes, `VARVE_LONG=600` for so many seconds.
 */
import { mkdirSync } from 'node:fs'
import { beforeAll, expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { acceptedServing } from '../support/cli-random/nbd-rules.ts'
import { serving } from '../support/cli-random/nbd-serving.ts'
import { ServingTrial } from '../support/cli-random/nbd-trial.ts'
import { makeWorld } from '../support/cli-random/world.ts'
import { scratchFolder } from '../support/folder.ts'
import { Random, runSeed } from '../support/random.ts'

const qemu = peer('qemu-nbd', 'qemu-img', 'qemu-io', 'nbdinfo', 'nbdcopy')
const { VARVE_LONG, VARVE_SEED } = process.env
const seconds = VARVE_LONG ? Math.max(120, Number(VARVE_LONG)) : undefined

/** The same run for everybody unless a long one is asked for. */
const firstSeed = VARVE_LONG || VARVE_SEED ? runSeed : 1
const shortRun = 12

/** Lines between two fresh worlds. */
const linesOfWorld = 20

const folder = scratchFolder('nbd-serving')

qemu.describe('an image that is served', () => {
  beforeAll(() => {
    mkdirSync(`${folder}/pool`)
    makeWorld(`${folder}/pool`, { encrypted: false })
  })

  const timeout = ((seconds ?? 0) + 90) * 1000
  it(`is the same to all clients (VARVE_SEED=${firstSeed})`, { timeout }, async () => {
    const end = Date.now() + (seconds ?? 0) * 1000
    const trial = new ServingTrial(folder, `${folder}/pool`)
    for (let step = 0; seconds ? Date.now() < end : step < shortRun; step++) {
      const seed = firstSeed + step
      if (step % linesOfWorld === 0 || VARVE_SEED) trial.renew()
      const line = serving(new Random(seed))
      const { ours, theirs, files } = await trial.run(line)
      if (acceptedServing(line, ours, theirs)) continue
      const note = `VARVE_SEED=${seed}: qemu-nbd ${line.words.join(' ')}`
      expect({ ...ours, files }, note).toEqual({ ...theirs, files: undefined })
    }
  })
})
