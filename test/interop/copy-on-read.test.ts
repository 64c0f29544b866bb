/** copy-on-read beside QEMU's: the same clusters end up in the image, and read the same. */
import { execFileSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { Random, seedNote } from '../support/random.ts'
import { Twins } from '../support/twins.ts'

const folder = scratchFolder('copy-on-read')
const qemuImg = peer('qemu-img', 'qemu-io')
const commands = (...lines: readonly string[]) => lines.flatMap((line) => ['-c', line])
const filter = 'driver=copy-on-read,file.driver=qcow2,file.file.filename=top.qcow2'
const toMiddle =
  `${filter},bottom=mid,file.backing.node-name=mid,file.backing.driver=qcow2,` +
  'file.backing.file.filename=mid.qcow2'
let runs = 0

/** Three images on each other, with data at random places. */
function makeChain(random: Random): string {
  const seed = join(folder, `seed${runs++}`)
  mkdirSync(seed)
  let backing: string[] = []
  for (const [index, name] of ['base.qcow2', 'mid.qcow2', 'top.qcow2'].entries()) {
    const size = index === 0 && random.chance(0.5) ? '700k' : '1M'
    execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', ...backing, name, size], { cwd: seed })
    const lines = Array.from({ length: 5 }, () => {
      const offset = random.below(60)
      const zeroes = random.chance(0.3) ? '-z' : `-P ${index + 1}`
      return `write ${zeroes} ${offset * 8}k ${8 + random.below(10) * 8}k`
    })
    execFileSync('qemu-io', [...commands(...lines), name], { cwd: seed })
    backing = ['-b', name, '-F', 'qcow2']
  }
  return seed
}

interface Run {
  readonly start: number
  readonly length: number
  readonly depth: number
  readonly data: boolean
}

/** Which image each cluster is in, and whether as data; holes of the files left aside. */
function clustersOf(image: string): string[] {
  const found: string[] = []
  const runs = JSON.parse(execFileSync('qemu-img', ['map', '--output=json', image]).toString())
  for (const { start, length, depth, data } of runs as Run[]) {
    for (let at = start; at < start + length; at += 8192) {
      found[Math.floor(at / 65536)] = `${depth} ${data}`
    }
  }
  return found
}

function sameClusters(twins: Twins): void {
  const [ours, theirs] = [twins.ours, twins.theirs].map((side) => join(side, 'top.qcow2'))
  expect(clustersOf(ours)).toEqual(clustersOf(theirs))
  execFileSync('qemu-img', ['compare', '-q', ours, theirs])
  execFileSync('qemu-img', ['check', '-q', ours])
}

qemuImg.describe(`what is read is kept (${seedNote})`, () => {
  test.each([
    ['the filter', ['--image-opts', filter]],
    ['the filter with bottom', ['--image-opts', toMiddle]],
    ['qemu-io -C', ['-C', 'top.qcow2']],
  ])('%s', async (_, image) => {
    const random = new Random()
    for (let round = 0; round < 4; round++) {
      const twins = new Twins(folder, `twins${runs}`, makeChain(random))
      const lines = Array.from({ length: 8 }, () => {
        const offset = random.below(900) * 512
        const length = (1 + random.below(200)) * 512
        return random.chance(0.8) ? `read ${offset} ${length}` : `write -P 9 ${offset} ${length}`
      })
      await twins.same('io', [...commands(...lines), ...image])
      sameClusters(twins)
    }
  })

  test('what cannot be done is refused alike', async () => {
    const twins = new Twins(folder, 'refused', makeChain(new Random()))
    const read = commands('read 0 1k')
    await twins.same('io', [...read, '--image-opts', `${filter},bottom=nobody`])
    await twins.same('io', [...read, '--image-opts', 'driver=copy-on-read'])
    await twins.same('io', [...read, '--image-opts', `${filter},x=1`])
    await twins.same('io', [...read, '-r', '--image-opts', filter])
    await twins.same('io', [...read, '--image-opts', `${filter},file.read-only=on`])
    await twins.same('io', [...read, '-C', '-r', 'top.qcow2'])
  })
})
