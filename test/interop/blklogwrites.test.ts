/** blklogwrites beside QEMU's: the same bytes in the log, and the disk can be made from it. */
import { mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { scratchFolder } from '../support/folder.ts'
import { qemuIo } from '../support/io-tools.ts'
import { Random, seedNote } from '../support/random.ts'
import { Twins } from '../support/twins.ts'

const folder = scratchFolder('blklogwrites')
const commands = (...lines: readonly string[]) => lines.flatMap((line) => ['-c', line])
const disk = 'driver=blklogwrites,file.filename=disk.raw,log.filename=log.raw'
const size = 1024 * 1024
let runs = 0

function twins(): Twins {
  const seed = join(folder, `seed${runs++}`)
  mkdirSync(seed)
  for (const name of ['disk.raw', 'log.raw']) writeFileSync(join(seed, name), '')
  truncateSync(join(seed, 'disk.raw'), size)
  return new Twins(folder, `twins${runs}`, seed)
}

/** Does what a log says to a disk of zeroes. */
function replay(log: Buffer): Buffer {
  const [entries, sectorSize] = [Number(log.readBigUInt64LE(16)), log.readUInt32LE(24)]
  const found = Buffer.alloc(size)
  let at = sectorSize
  for (let entry = 0; entry < entries; entry++) {
    const [sector, sectors, flags] = [0, 8, 16].map((field) =>
      Number(log.readBigUInt64LE(at + field)),
    )
    at += sectorSize
    if ((flags & 4) !== 0) continue
    log.copy(found, sector * sectorSize, at, at + sectors * sectorSize)
    at += sectors * sectorSize
  }
  return found
}

function randomLines(random: Random, unit: number, verbs: readonly string[]): string[] {
  return Array.from({ length: 12 }, (_, index) => {
    const [offset, length] = random.range(size, unit, 100_000)
    const verb = random.pick(verbs)
    if (verb === 'flush') return verb
    return `${verb === 'write' ? `write -P ${index + 1}` : verb} ${offset} ${length}`
  })
}

const verbs = ['write', 'write', 'write -z', 'read', 'flush']

qemuIo.describe(`blklogwrites (${seedNote})`, () => {
  test.each([
    ['writeback', '', 512],
    ['writethrough', '', 512],
    ['writeback', ',log-sector-size=4096', 4096],
    ['writeback', ',log-super-update-interval=2', 512],
  ])('logs the same: %s%s', async (cache, options, unit) => {
    const random = new Random()
    const pair = twins()
    const lines = randomLines(random, unit, [...verbs, 'discard'])
    await pair.same('io', ['-t', cache, ...commands(...lines), '--image-opts', disk + options])
    pair.sameFile('log.raw')
    const more = commands(...randomLines(random, unit, verbs))
    await pair.same('io', ['-t', cache, ...more, '--image-opts', `${disk},log-append=on`])
    pair.sameFile('log.raw')
    pair.sameFile('disk.raw')
  })

  test('a disk is made again from its log', async () => {
    const pair = twins()
    const lines = commands(...randomLines(new Random(), 512, verbs), 'flush')
    await pair.same('io', ['-t', 'writeback', ...lines, '--image-opts', disk])
    const log = readFileSync(join(pair.ours, 'log.raw'))
    expect(replay(log).equals(readFileSync(join(pair.ours, 'disk.raw')))).toBe(true)
  })

  test('reading leaves no trace', async () => {
    const pair = twins()
    await pair.same('io', [...commands('read 0 4k', 'flush'), '--image-opts', disk])
    pair.sameFile('log.raw')
  })

  test.each([
    'driver=blklogwrites,file.filename=disk.raw',
    'driver=blklogwrites,log.filename=log.raw',
    `${disk},x=1`,
    `${disk},log-sector-size=1000`,
    `${disk},log-sector-size=16`,
    `${disk},log-sector-size=0`,
    `${disk},log-super-update-interval=0`,
    `${disk},log-append=on,log-sector-size=512`,
    `${disk},log-append=on`,
    'driver=blklogwrites,file.filename=disk.raw,log.filename=disk.raw,log-append=on',
  ])('opens or refuses %s', async (options) => {
    await twins().same('io', [...commands('write 0 4k'), '--image-opts', options])
  })
})
