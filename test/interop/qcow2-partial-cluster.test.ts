/**
 * Disks that end within a cluster, written, made smaller and made larger: what is gained reads as
 * zeroes, whoever of the two has written before and whoever makes the disk larger. QEMU takes what
 * the last cluster has behind the end of the disk for zeroes when it does so.
 */
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect } from 'vitest'
import { alignDown, alignUp } from '../../src/bytes/range.ts'
import { type Outcome, peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { runOurs, runTheirs } from '../support/img.ts'
import { varveIo } from '../support/io-tools.ts'
import { Random, runSeed, seedNote } from '../support/random.ts'

const qemu = peer('qemu-img', 'qemu-io')
const folder = scratchFolder('partial-cluster')
const rounds = process.env.VARVE_LONG ? 40 : 1
const secret = ['--object', 'secret,id=s,data=open sesame']
const sector = 512
const largestCluster = 2 * 1024 * 1024

const aes = 'encrypt.format=aes,encrypt.key-secret=s'
const luks =
  'encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=1,encrypt.cipher-alg=aes-128'
const data = `data_file=${join(folder, 'd')}`
const backed = `backing_file=${join(folder, 'base')},backing_fmt=raw`

const kinds = [
  '',
  'compat=0.10,cluster_size=4k',
  'extended_l2=on,cluster_size=16k',
  aes,
  `compat=0.10,${aes}`,
  `compat=0.10,preallocation=metadata,${aes}`,
  `compat=0.10,preallocation=full,${luks}`,
  `extended_l2=on,${aes}`,
  luks,
  data,
  `${data},data_file_raw=on`,
  `${data},${aes}`,
  `${data},${luks},cluster_size=2M`,
  `${data},${aes},extended_l2=on`,
  `${data},data_file_raw=on,${luks},cluster_size=16k`,
  backed,
  `${backed},compat=0.10,${aes}`,
  `${backed},extended_l2=on,${luks}`,
  `${backed},extended_l2=on,preallocation=metadata,${aes}`,
  `${backed},${data},${aes}`,
]

qemu.describe(`a disk that ends within a cluster (${seedNote})`, () => {
  for (const [index, kind] of kinds.entries()) {
    const title = kind.replaceAll(`${folder}/`, '').replaceAll('encrypt.', '')
    qemu.it(`gains zeroes, whoever makes it larger: ${title || 'plain'}`, async () => {
      for (let round = 0; round < rounds; round++) {
        await tryKind(kind, new Random(runSeed + index + 100 * round))
      }
    })
  }
})

async function tryKind(kind: string, random: Random): Promise<void> {
  for (const name of ['i', 'd']) rmSync(join(folder, name), { force: true })
  let disk: Buffer = Buffer.alloc(sector * (1 + random.below(600)))
  if (kind.includes('backing_file')) {
    const base = Buffer.from(random.bytes(sector * (1 + random.below(900))))
    writeFileSync(join(folder, 'base'), base)
    base.copy(disk)
  }
  const options = kind === '' ? [] : ['-o', kind]
  const create = ['create', '-q', ...secret, '-f', 'qcow2', ...options, 'i', `${disk.length}`]
  await done(runOurs(folder, create), kind)
  const steps: string[] = []
  // What a snapshot shares is copied before it is changed. Version 2 keeps its size then.
  const mayKeep = !/data_file|compat=0.10/.test(kind)
  for (let step = 0; step < 6; step++) {
    if (mayKeep && random.chance(0.15)) steps.push(await keep(kind, step))
    const change = random.below(3)
    if (change === 0) steps.push(await write(kind, disk, random))
    else if (change === 1) {
      disk = disk.subarray(0, sector * (1 + random.below(disk.length / sector)))
      await done(resize(runOurs, kind, disk.length), kind)
      steps.push(`ours: shrink to ${disk.length}`)
    } else {
      steps.push(await write(kind, disk, random))
      const gained = await grow(kind, disk.length + sector * (1 + random.below(400)), random)
      disk = Buffer.concat([disk, Buffer.alloc(gained.size - disk.length)])
      steps.push(gained.step)
    }
    await expectDisk(kind, disk, `${kind}: ${steps.join('; ')}`)
  }
}

/** To the end of the disk, mostly. */
async function write(kind: string, disk: Buffer, random: Random): Promise<string> {
  const offset = sector * random.below(disk.length / sector)
  const end = random.chance(0.7)
    ? disk.length
    : offset + sector * (1 + random.below((disk.length - offset) / sector))
  const pattern = random.chance(0.2) ? 0 : 1 + random.below(255)
  if (pattern !== 0 && random.chance(0.3) && !/encrypt|data_file/.test(kind)) {
    return await compress(kind, disk, pattern)
  }
  const verb = pattern === 0 ? `write -z${random.pick([' -u', ''])}` : `write -P ${pattern}`
  const command = `${verb} ${offset} ${end - offset}`
  disk.fill(pattern, offset, end)
  const by = random.pick(['ours', 'theirs'])
  const args = [...secret, '-d', 'unmap', '-c', command, '--image-opts', opened(kind)]
  await done(by === 'ours' ? varveIo(args) : runTheirs(folder, args, 'qemu-io'), command)
  return `${by}: ${command}`
}

/** The cluster in which the disk ends. */
async function compress(kind: string, disk: Buffer, pattern: number): Promise<string> {
  const clusterSize = /cluster_size=(\d+)k/.exec(kind)?.[1] ?? '64'
  const offset = alignDown(disk.length - 1, Number(clusterSize) * 1024)
  const command = `write -c -P ${pattern} ${offset} ${disk.length - offset}`
  disk.fill(pattern, offset)
  await done(varveIo(['-c', command, '--image-opts', opened(kind)]), command)
  return `ours: ${command}`
}

async function keep(kind: string, step: number): Promise<string> {
  const name = `s${step}`
  const words = ['snapshot', '-c', name, ...secret, '--image-opts', opened(kind)]
  await done(runOurs(folder, words), name)
  return `snapshot ${name}`
}

async function grow(kind: string, least: number, random: Random) {
  const enciphered = kind.includes('encrypt')
  // QEMU shows what the ciphers make of what it takes, and of what a raw data file gains;
  // where its data file is longer than the disk it refuses to; of subclusters it loses compressed ones.
  const by = enciphered && kind.includes('raw') ? 'ours' : random.pick(['ours', 'theirs'])
  const mayTake = by === 'ours' || !(enciphered || /backing|data_file|extended/.test(kind))
  const mode = mayTake ? random.pick(['off', 'metadata', 'falloc', 'full']) : 'off'
  // It cuts off a data file where the disk ends, and shows noise when it makes the disk larger again.
  const cutsOff = by === 'theirs' && enciphered && kind.includes('data_file')
  const size = cutsOff ? alignUp(least, largestCluster) : least
  const resized = await resize(by === 'ours' ? runOurs : runTheirs, kind, size, mode)
  // Space that was allocated ahead stands in QEMU's way.
  const again = by === 'theirs' && resized.stderr.includes('preallocation for shrinking')
  await done(again ? resize(runTheirs, kind, size) : resized, kind)
  return { size, step: `${by}: grow to ${size} with ${mode}` }
}

function resize(by: typeof runOurs, kind: string, size: number, mode = 'off') {
  const preallocation = mode === 'off' ? [] : [`--preallocation=${mode}`]
  const words = ['resize', '-q', ...(mode === 'off' ? ['--shrink'] : []), ...preallocation]
  return by(folder, [...words, ...secret, '--image-opts', opened(kind), `${size}`])
}

async function expectDisk(kind: string, disk: Buffer, note: string): Promise<void> {
  const raw = join(folder, 'raw')
  writeFileSync(raw, disk)
  const image = opened(kind)
  for (const read of [runOurs, runTheirs]) {
    const who = `${note}, read by ${read === runOurs ? 'us' : 'them'}`
    const words = [...secret, '--image-opts', image]
    const compared = await read(folder, ['compare', ...words, `driver=raw,file.filename=${raw}`])
    expect(compared.stdout + compared.stderr, who).toBe('Images are identical.\n')
    await done(read(folder, ['check', '-q', ...words]), who)
  }
}

function opened(kind: string): string {
  const key = kind.includes('encrypt') ? ',encrypt.key-secret=s' : ''
  return `driver=qcow2,file.filename=${join(folder, 'i')}${key}`
}

async function done(outcome: Outcome | Promise<Outcome>, note: string) {
  expect(await outcome, note).toMatchObject({ status: 0, stderr: '' })
}
