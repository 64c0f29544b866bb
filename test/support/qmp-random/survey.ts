/**
 * Many random conversations, and each kind of difference in them once, with the fewest commands:
 *
 *     node test/support/qmp-random/survey.ts FIRST-SEED COUNT OUTPUT
 *
 * Kinds that `OUTPUT` holds are not told again.
 */
import { execFileSync } from 'node:child_process'
import { appendFileSync, existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Random } from '../random.ts'
import { randomConversation, type Setting } from './conversation.ts'
import { kindOf, shrunk, told } from './shrink.ts'
import { makeWorld } from './world.ts'

const [first, count, output] = process.argv.slice(2)
const folder = mkdtempSync(join(tmpdir(), 'qmp-survey-'))
const program = execFileSync('which', ['qemu-storage-daemon'], { encoding: 'utf8' }).trim()
const setting: Setting = { world: join(folder, 'world'), folder: join(folder, 'run'), program }
makeWorld(setting.world)
const known = new Set(existsSync(output) ? readFileSync(output, 'utf8').split('\0') : [])
let alike = 0
for (let seed = Number(first); seed < Number(first) + Number(count); seed++) {
  const random = new Random(seed)
  let different = 0
  for await (const outcome of randomConversation(setting, random, 20 + random.below(40))) {
    if (outcome.difference === undefined) continue
    different++
    const kind = kindOf(outcome)
    if (known.has(kind)) continue
    known.add(kind)
    const shorter = await shrunk(setting, outcome)
    known.add(kindOf(shorter))
    appendFileSync(output, `${kind}\0 seed ${seed}\n${told(shorter)}\n\0`)
  }
  if (different === 0) alike++
  console.log(`${seed}: ${different}`)
}
console.log(`${alike} of ${count} alike, ${known.size} kinds`)
rmSync(folder, { recursive: true })
