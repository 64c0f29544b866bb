/**
 * Random command lines for a storage daemon, sound and not, with every option: the same complaints
 * and status, and of what serves the same nodes, exports, devices and objects.
 *
 * `VARVE_SEED` and `VARVE_LINES` choose others; a failure says which line of which seed it was.
 */
import { expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { isRight } from '../support/daemon-random/differences.ts'
import { daemonLine } from '../support/daemon-random/lines.ts'
import { DaemonTrial } from '../support/daemon-random/trial.ts'
import { scratchFolder } from '../support/folder.ts'
import { Random } from '../support/random.ts'

const qsd = peer('qemu-storage-daemon', 'qemu-img')
const { VARVE_SEED: given, VARVE_LINES: count = 60 } = process.env
const seed = Number(given ?? 1)

qsd.describe(`random command lines of the daemon (VARVE_SEED=${seed})`, () => {
  const folder = scratchFolder('daemon-random')
  const timeout = 20_000 + Number(count) * 1000

  it('are refused alike', { timeout }, async () => {
    const trial = new DaemonTrial(`${folder}/refused`, qsd.path as string)
    const random = new Random(seed)
    for (let number = 0; number < Number(count); number++) {
      const line = daemonLine(random)
      const found = await trial.refused(line)
      if (!found || isRight(line, ...found)) continue
      expect.soft(found[1], `line ${number}: ${quoted(line)}`).toBe(found[0])
    }
  })

  it('serve alike', { timeout }, async () => {
    const trial = new DaemonTrial(`${folder}/served`, qsd.path as string)
    const random = new Random(seed)
    for (let number = 0; number < Number(count) / 10; number++) {
      const line = daemonLine(random)
      const found = await trial.served(line)
      if (!found || isRight(line, ...found)) continue
      expect.soft(found[1], `line ${number}: ${quoted(line)}`).toBe(found[0])
    }
  })
})

function quoted(line: readonly string[]): string {
  return line.map((word) => (/^[\w.,=:/-]+$/.test(word) ? word : `'${word}'`)).join(' ')
}
