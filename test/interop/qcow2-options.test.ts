/**
 * Every option that `qemu-img create -f qcow2 -o help` names, in images made by either program:
 * described alike by both, written by one, then by the other, and read by both. A value of each is
 * drawn; VARVE_LONG=1 tries all.
 */
import { rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { peer } from '../peers.ts'
import { Pair, runOurs, runTheirs } from '../support/img.ts'
import { varveIo } from '../support/io-tools.ts'
import { Random, seedNote } from '../support/random.ts'

const qemu = peer('qemu-img', 'qemu-io')
const secret = ['--object', 'secret,id=s,data=open sesame']
const all = process.env.VARVE_LONG !== undefined
const timeout = all ? 600_000 : 60_000
const size = 3 * 1024 * 1024 + 512

/** What is tried of each. What an option needs besides comes with it. */
const values: Readonly<Record<string, readonly string[]>> = {
  backing_file: ['base'],
  backing_fmt: ['raw', 'qcow2'],
  cluster_size: ['512', '1k', '4096', '64k', '2M'],
  compat: ['0.10', '1.1', 'v2', 'v3'],
  compression_type: ['zlib', 'zstd'],
  data_file: ['data'],
  data_file_raw: ['on', 'off'],
  'encrypt.format': ['luks', 'aes'],
  encryption: ['on', 'off'],
  extended_l2: ['on', 'off'],
  extent_size_hint: ['0', '1M'],
  lazy_refcounts: ['on', 'off'],
  nocow: ['on', 'off'],
  preallocation: ['off', 'metadata', 'falloc', 'full'],
  refcount_bits: ['1', '2', '4', '8', '16', '32', '64'],
  size: [String(size)],
}

/** The options of LUKS, which are drawn for each image; test/interop/luks.test.ts tries all. */
const luksValues: Readonly<Record<string, readonly string[]>> = {
  'encrypt.cipher-alg': ['aes-128', 'aes-256', 'twofish-256'],
  'encrypt.cipher-mode': ['xts', 'cbc'],
  'encrypt.hash-alg': ['sha1', 'sha256', 'sha512'],
  'encrypt.iter-time': ['10'],
  'encrypt.ivgen-alg': ['essiv'],
  'encrypt.ivgen-hash-alg': ['sha256'],
  'encrypt.key-secret': ['s'],
}

/** Others that it only makes sense with. */
function companions(name: string, value: string, random: Random): string[] {
  if (name === 'backing_file') return ['backing_fmt=raw']
  if (name === 'backing_fmt') return [`backing_file=base${value === 'raw' ? '' : '.qcow2'}`]
  if (name === 'data_file_raw') return ['data_file=data']
  if (name === 'encryption') return value === 'on' ? ['encrypt.key-secret=s'] : []
  if (name !== 'encrypt.format') return []
  if (value === 'aes') return ['encrypt.key-secret=s']
  return Object.entries(luksValues).map(([other, each]) => `${other}=${random.pick(each)}`)
}

let pair: Pair
beforeEach(() => {
  pair = new Pair()
})
afterEach(() => pair[Symbol.dispose]())

qemu.describe('every option of a new qcow2 image', () => {
  it('is tried here', async () => {
    // With a file's name, so that those of its protocol are there too.
    const words = ['create', '-f', 'qcow2', '-o', 'help', 'i']
    const names = [...(await qemu.run(...words)).matchAll(/^ {2}([\w.-]+)=</gm)].map(
      ([, name]) => name,
    )
    expect(names).toEqual(Object.keys({ ...values, ...luksValues }).sort())
  })

  for (const [name, each] of Object.entries(values)) {
    it(`is the same to both: ${name} (${seedNote})`, { timeout }, async () => {
      const random = new Random()
      for (const value of all ? each : [random.pick(each)]) {
        const makers = all ? [runOurs, runTheirs] : [random.pick([runOurs, runTheirs])]
        for (const make of makers) {
          const other = make === runOurs ? runTheirs : runOurs
          await tryImage(
            [`${name}=${value}`, ...companions(name, value, random)].join(','),
            make,
            other,
          )
        }
      }
    })
  }
})

async function tryImage(options: string, make: typeof runOurs, other: typeof runOurs) {
  const folder = pair.ours
  for (const left of ['i', 'data']) rmSync(join(folder, left), { force: true })
  const disk = Buffer.alloc(size)
  if (options.includes('backing_file')) {
    disk.fill(9, 0, 1_000_000)
    writeFileSync(join(folder, 'base'), disk.subarray(0, 1_000_000 - (1_000_000 % 512)))
    disk.fill(0, 1_000_000 - (1_000_000 % 512))
    await runTheirs(folder, ['convert', '-f', 'raw', '-O', 'qcow2', 'base', 'base.qcow2'])
  }
  const create = ['create', '-q', ...secret, '-f', 'qcow2', '-o', options, 'i']
  const given = options.includes('size=') && /(^|,)size=/.test(options) ? [] : [String(size)]
  for (let attempt = 0; ; attempt++) {
    const made = await make(folder, [...create, ...given])
    if (made.stderr.includes('accurate CPU usage') && attempt < 30) continue
    expect(made.status, `${options}: ${made.stderr}`).toBe(0)
    break
  }
  const encrypted = /encrypt\.format|encryption=on/.test(options)
  const image = `driver=qcow2,file.filename=i${encrypted ? ',encrypt.key-secret=s' : ''}`
  for (const format of ['human', 'json']) {
    const info = ['info', `--output=${format}`, 'i']
    expect(await runOurs(folder, info), options).toEqual(await runTheirs(folder, info))
  }
  for (const [pattern, by] of [
    [1, make],
    [2, other],
  ] as const) {
    const [offset, length] = [pattern * 700_000 - ((pattern * 700_000) % 512), 512 * 301]
    disk.fill(pattern, offset, offset + length)
    disk.fill(0, 2_097_152 + 65_536 * pattern, 2_097_152 + 65_536 * pattern + 10_240)
    const commands = [
      `write -P ${pattern} ${offset} ${length}`,
      `write -z ${2_097_152 + 65_536 * pattern} 10240`,
    ]
    const words = commands.flatMap((command) => ['-c', command])
    const args = [...secret, ...words, '--image-opts', image]
    const told =
      by === runTheirs
        ? await runTheirs(folder, args, 'qemu-io')
        : await inFolder(folder, () => varveIo(args))
    expect(told, options).toMatchObject({ status: 0, stderr: '' })
    for (const read of [runOurs, runTheirs]) {
      const check = await read(folder, ['check', ...secret, '--image-opts', image])
      expect(check, options).toMatchObject({ status: 0, stderr: '' })
      writeFileSync(join(folder, 'disk'), disk)
      const raw = 'driver=raw,file.filename=disk'
      const compared = await read(folder, ['compare', ...secret, '--image-opts', image, raw])
      expect(compared.stdout + compared.stderr, options).toBe('Images are identical.\n')
    }
  }
}

async function inFolder<T>(folder: string, work: () => Promise<T>): Promise<T> {
  const before = process.cwd()
  process.chdir(folder)
  try {
    return await work()
  } finally {
    process.chdir(before)
  }
}
