/**
 * Random walks over a graph of images under a guest: jobs, snapshots, reopens, cancels, resizes,
 * and, in half of the walks, faults. See `support/random-walk/walk.ts`.
 *
 * Steps per run: `VARVE_WALK` (default 600); walks of each kind: `VARVE_WALKS` (default 2). A
 * failing run is replayed with the seed in its name.
 */
import { describe, it } from 'vitest'
import { Faults } from '../support/faults.ts'
import { scratchFolder } from '../support/folder.ts'
import { Random, runSeed } from '../support/random.ts'
import { Walk } from '../support/random-walk/walk.ts'

const folder = scratchFolder('random-walk')
const steps = Number(process.env.VARVE_WALK ?? 600)
const walks = Number(process.env.VARVE_WALKS ?? 2)

for (const kind of ['', ', while requests fail']) {
  describe(`the guest's data through ${steps} random steps${kind}`, () => {
    for (let number = 0; number < walks; number++) {
      const seed = runSeed + number
      it(`is kept (VARVE_SEED=${seed} VARVE_WALKS=1)`, async () => {
        const faults = kind === '' ? undefined : new Faults()
        const name = `${faults ? 'f' : 'w'}${number}`
        const walk = await Walk.begin({ random: new Random(seed), folder, name, faults })
        try {
          await walk.run(steps)
          await walk.end()
        } catch (error) {
          if (error instanceof Error) error.message += `\nseed ${seed}\n${walk.log}`
          throw error
        }
      })
    }
  })
}
