/**
 * Random conversations with Debian's qemu-storage-daemon and ours: the same answers, events, state
 * after each command, what guests of their exports read, and images in the end. Each difference is told
 * with the few commands that make it; `support/qmp-random/survey.ts` collects those of many seeds.
 *
 * `VARVE_SEED` and `VARVE_CONVERSATIONS` choose others; a failing one is replayed with its name's.
 */
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { randomConversation, type Setting } from '../support/qmp-random/conversation.ts'
import { shrunk, told } from '../support/qmp-random/shrink.ts'
import { makeWorld } from '../support/qmp-random/world.ts'
import { Random } from '../support/random.ts'

const qsd = peer('qemu-storage-daemon', 'qemu-img', 'qemu-io')

/** Conversations without a difference, which have to stay that way. */
const long = [1, 3, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19]
const usual = process.env.VARVE_LONG ? long : [4, 10, 15]
/** With a seed or a number: so many from there on. In one of ten there is still something to be found. */
const { VARVE_SEED: first = 1, VARVE_CONVERSATIONS: count } = process.env
const chosen = Array.from({ length: Number(count ?? 0) }, (_, index) => Number(first) + index)
const seeds = count === undefined ? usual : chosen

qsd.describe('random conversations', () => {
  const folder = scratchFolder('qmp-random')
  const world = join(folder, 'world')
  const setting: Setting = { world, folder: join(folder, 'run'), program: qsd.path as string }

  it('have a world', () => makeWorld(world))

  for (const seed of seeds) {
    it(`go alike (VARVE_SEED=${seed} VARVE_CONVERSATIONS=1)`, { timeout: 300_000 }, async () => {
      const random = new Random(seed)
      for await (const outcome of randomConversation(setting, random, 20 + random.below(40))) {
        if (outcome.difference === undefined) continue
        expect.soft(told(await shrunk(setting, outcome))).toBeUndefined()
      }
    })
  }
})
