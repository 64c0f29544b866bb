/**
 * Encrypted images, made and written by either side and read by the other: `luks` and LUKS inside
 * qcow2, in what qemu-img can make. VARVE_LONG=1 tries every combination, otherwise some are drawn.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import {
  cipherAlgorithms,
  cipherModes,
  hashNames,
  ivGenerators,
} from '../../src/crypto/cipher-spec.ts'
import { peer } from '../peers.ts'
import { Pair, runOurs, runTheirs } from '../support/img.ts'
import { varveIo } from '../support/io-tools.ts'
import { Random, seedNote } from '../support/random.ts'

const qemu = peer('qemu-img', 'qemu-io')
const cryptsetup = peer('cryptsetup', 'qemu-img')
const secret = ['--object', 'secret,id=s,data=open sesame']
const size = 1024 * 1024

interface Combination {
  readonly format: 'luks' | 'qcow2'
  readonly options: Readonly<Record<string, string>>
}

/** All that qemu-img 7.2 can make: keys of 192 bits it can split for XTS only. */
function combinations(): Combination[] {
  const made: Combination[] = []
  for (const { name, keyLength } of cipherAlgorithms) {
    for (const mode of cipherModes) {
      if (keyLength === 24 && mode !== 'xts') continue
      const isCast5 = name === 'cast5-128'
      if (isCast5 && mode === 'xts') continue
      for (const ivs of ivGenerators) {
        if (isCast5 && ivs === 'essiv') continue
        for (const hash of hashNames) {
          const options = {
            'cipher-alg': name,
            'cipher-mode': mode,
            'ivgen-alg': ivs,
            'hash-alg': hash,
          }
          for (const format of ['luks', 'qcow2'] as const) made.push({ format, options })
        }
      }
    }
  }
  return made
}

function chosen(random: Random): Combination[] {
  const all = combinations()
  if (process.env.VARVE_LONG) return all
  return Array.from({ length: 4 }, () => all[random.below(all.length)])
}

function createArguments({ format, options }: Combination, filename: string): string[] {
  const prefix = format === 'qcow2' ? 'encrypt.' : ''
  const kind = format === 'qcow2' ? { format: 'luks' } : {}
  const all = { ...kind, ...options, 'key-secret': 's', 'iter-time': '10' }
  const list = Object.entries(all).map(([name, value]) => `${prefix}${name}=${value}`)
  return ['create', '-q', ...secret, '-f', format, '-o', list.join(','), filename, String(size)]
}

/** `--image-opts` that open an image with its key. */
function opened(format: string, filename: string, id = 's'): string {
  const name = format === 'qcow2' ? 'encrypt.key-secret' : 'key-secret'
  return `driver=${format},${name}=${id},file.filename=${filename}`
}

/** qemu-img measures the time of PBKDF2, and gives up when the clock did not move meanwhile. */
async function theirs(folder: string, args: readonly string[]) {
  for (let attempt = 0; ; attempt++) {
    const outcome = await runTheirs(folder, args)
    if (attempt === 30 || !outcome.stderr.includes('Unable to get accurate CPU usage'))
      return outcome
  }
}

interface Write {
  readonly offset: number
  readonly length: number
  readonly pattern: number
}

function randomWrites(random: Random): Write[] {
  return Array.from({ length: 4 }, () => {
    const [offset, length] = random.range(size, 512, 128 * 1024)
    return { offset, length, pattern: 1 + random.below(255) }
  })
}

function applyWrites(disk: Buffer, writes: readonly Write[]): void {
  for (const { offset, length, pattern } of writes) disk.fill(pattern, offset, offset + length)
}

function ioArguments(image: string, writes: readonly Write[]): string[] {
  const commands = writes.map(
    ({ offset, length, pattern }) => `write -P ${pattern} ${offset} ${length}`,
  )
  return [...secret, '--image-opts', image, ...commands.flatMap((command) => ['-c', command])]
}

function convertArguments(image: string, to: string): string[] {
  return ['convert', ...secret, '--image-opts', image, '-O', 'raw', to]
}

async function exchange(random: Random, combination: Combination, maker: 'ours' | 'theirs') {
  using pair = new Pair()
  const path = join(pair.ours, 'image')
  const what = JSON.stringify({ maker, ...combination })
  const make = createArguments(combination, path)
  const made = maker === 'ours' ? await runOurs(pair.ours, make) : await theirs(pair.theirs, make)
  expect(made, what).toMatchObject({ status: 0, stderr: '' })

  const image = opened(combination.format, path)
  const disk = Buffer.alloc(size)
  // What a new LUKS disk reads as is left to chance.
  const all = [{ offset: 0, length: size, pattern: 7 }]
  const first = randomWrites(random)
  const second = randomWrites(random)
  applyWrites(disk, [...(combination.format === 'luks' ? all : []), ...first, ...second])

  const theirWrites = combination.format === 'luks' ? [...all, ...first] : first
  expect((await runTheirs(pair.theirs, ioArguments(image, theirWrites), 'qemu-io')).status).toBe(0)
  expect((await varveIo(ioArguments(image, second))).status, what).toBe(0)
  const raw = join(pair.ours, 'raw')
  const their = join(pair.theirs, 'raw')
  expect(await runOurs(pair.ours, convertArguments(image, raw)), what).toMatchObject({ status: 0 })
  expect(readFileSync(raw).equals(disk), what).toBe(true)
  expect(await runTheirs(pair.theirs, convertArguments(image, their)), what).toMatchObject({
    status: 0,
  })
  expect(readFileSync(their).equals(disk), what).toBe(true)
  if (combination.format === 'qcow2') {
    const check = ['check', ...secret, '--image-opts', image]
    expect((await runTheirs(pair.theirs, check)).status, what).toBe(0)
  }
  const info = ['info', '--output=json', path]
  expect((await runOurs(pair.ours, info)).stdout).toBe((await runTheirs(pair.theirs, info)).stdout)
  const text = ['info', path]
  expect((await runOurs(pair.ours, text)).stdout).toBe((await runTheirs(pair.theirs, text)).stdout)
}

const timeout = process.env.VARVE_LONG ? 4 * 60 * 60_000 : 60_000

qemu.describe('encrypted images are exchanged with QEMU', () => {
  it(`whoever has made them (${seedNote})`, { timeout }, async () => {
    const random = new Random()
    for (const [index, combination] of chosen(random).entries()) {
      await exchange(random, combination, index % 2 === 0 ? 'ours' : 'theirs')
    }
  })

  it(`with CAST5, whose blocks are shorter (${seedNote})`, { timeout }, async () => {
    const random = new Random()
    const cast5 = { 'cipher-alg': 'cast5-128' }
    const essiv = { 'ivgen-alg': 'essiv', 'ivgen-hash-alg': 'md5' }
    await exchange(random, { format: 'qcow2', options: { ...cast5, 'cipher-mode': 'cbc' } }, 'ours')
    await exchange(
      random,
      { format: 'luks', options: { ...cast5, 'cipher-mode': 'ctr' } },
      'theirs',
    )
    const both = { ...cast5, ...essiv, 'cipher-mode': 'cbc' }
    await exchange(random, { format: 'luks', options: both }, 'ours')
  })

  it('with the older AES of qcow2, which counts sectors as the guest does', {
    timeout,
  }, async () => {
    using pair = new Pair()
    const path = join(pair.ours, 'image')
    for (const make of [runOurs, runTheirs]) {
      const options = 'encrypt.format=aes,encrypt.key-secret=s'
      const args = ['create', '-q', ...secret, '-f', 'qcow2', '-o', options, path, String(size)]
      expect(await make(pair.ours, args)).toMatchObject({ status: 0, stderr: '' })
      const random = new Random()
      const image = opened('qcow2', path)
      const disk = Buffer.alloc(size)
      for (const write of [1, 2]) {
        const writes = randomWrites(random)
        applyWrites(disk, writes)
        const io = ioArguments(image, writes)
        if (write === 1) expect((await varveIo(io)).status).toBe(0)
        else expect((await runTheirs(pair.ours, io, 'qemu-io')).status).toBe(0)
      }
      for (const [convert, name] of [
        [runOurs, 'a'],
        [runTheirs, 'b'],
      ] as const) {
        const raw = join(pair.ours, name)
        expect((await convert(pair.ours, convertArguments(image, raw))).status).toBe(0)
        expect(readFileSync(raw).equals(disk)).toBe(true)
      }
    }
  })
})

const asked: readonly (readonly string[])[] = [
  ['info', '--image-opts', 'driver=luks,file.filename=l'],
  ['map', 'l'],
  ['map', '--output=json', '--image-opts', opened('luks', 'l')],
  ['map', '--image-opts', opened('luks', 'l')],
  ['map', '--image-opts', opened('luks', 'l', 'x')],
  ['map', '--image-opts', opened('luks', 'l', 'w')],
  ['check', '--image-opts', opened('luks', 'l')],
  ['map', 'q'],
  ['map', '--output=json', '--image-opts', opened('qcow2', 'q')],
  ['map', '--image-opts', opened('qcow2', 'q')],
  ['map', '--image-opts', opened('qcow2', 'q', 'x')],
  ['map', '--image-opts', opened('qcow2', 'q', 'w')],
  ['map', '--image-opts', 'driver=qcow2,encrypt.format=aes,encrypt.key-secret=s,file.filename=q'],
  ['map', '--image-opts', 'driver=qcow2,encrypt.format=foo,encrypt.key-secret=s,file.filename=q'],
  ['map', '--image-opts', 'driver=qcow2,encrypt.format=luks,encrypt.key-secret=s,file.filename=p'],
  ['map', '--image-opts', 'driver=qcow2,encrypt.key-secret=s,file.filename=p'],
  ['map', '--image-opts', 'driver=qcow2,encrypt.foo=1,file.filename=q'],
  ['resize', 'q', '2M'],
  ['resize', '--image-opts', opened('luks', 'l'), '2M'],
  ['resize', '--shrink', '--image-opts', opened('luks', 'l'), '1M'],
  ['compare', 'l', 'q'],
  ['create', '-f', 'luks', 'n', '1M'],
  ['create', '-f', 'luks', '-o', 'key-secret=x', 'n', '1M'],
  ['create', '-f', 'luks', '-o', 'key-secret=s,cipher-alg=foo', 'n', '1M'],
  ['create', '-f', 'luks', '-o', 'key-secret=s,cipher-alg=3des', 'n', '1M'],
  ['create', '-f', 'luks', '-o', 'key-secret=s,ivgen-alg=essiv,ivgen-hash-alg=sha512', 'n', '1M'],
  ['create', '-f', 'luks', '-o', 'key-secret=s,cipher-alg=cast5-128', 'n', '1M'],
  ['create', '-f', 'luks', '-o', 'key-secret=s,cipher-alg=cast5-128,ivgen-alg=essiv', 'n', '1M'],
  ['create', '-f', 'luks', '-o', 'key-secret=s,iter-time=abc', 'n', '1M'],
  ['create', '-f', 'luks', '-o', 'key-secret=s', 'n'],
  ['create', '-f', 'qcow2', '-o', 'encrypt.format=luks', 'n', '1M'],
  ['create', '-f', 'qcow2', '-o', 'encrypt.format=foo', 'n', '1M'],
  ['create', '-f', 'qcow2', '-o', 'encrypt.key-secret=s', 'n', '1M'],
  ['create', '-f', 'qcow2', '-o', 'encryption=on', 'n', '1M'],
  [
    'create',
    '-f',
    'qcow2',
    '-o',
    'encryption=on,encrypt.format=aes,encrypt.key-secret=s',
    'n',
    '1M',
  ],
  [
    'create',
    '-f',
    'qcow2',
    '-o',
    'encrypt.format=aes,encrypt.key-secret=s,encrypt.hash-alg=md5',
    'n',
    '1M',
  ],
  ['create', '-f', 'luks', '-o', 'help'],
  ['amend', '-f', 'luks', '-o', 'help'],
  ['amend', '-o', 'state=active', '--image-opts', opened('luks', 'l')],
  ['amend', '-o', 'state=foo', '--image-opts', opened('luks', 'l')],
  ['amend', '-o', 'new-secret=n', '--image-opts', opened('luks', 'l')],
  ['amend', '-o', 'state=active,new-secret=n,keyslot=0', '--image-opts', opened('luks', 'l')],
  ['amend', '-o', 'state=active,new-secret=n,keyslot=8', '--image-opts', opened('luks', 'l')],
  ['amend', '-o', 'state=active,new-secret=x', '--image-opts', opened('luks', 'l')],
  ['amend', '-o', 'state=active,new-secret=n,old-secret=s', '--image-opts', opened('luks', 'l')],
  ['amend', '-o', 'state=inactive', '--image-opts', opened('luks', 'l')],
  ['amend', '-o', 'state=inactive,keyslot=5', '--image-opts', opened('luks', 'l')],
  ['amend', '-o', 'state=inactive,keyslot=0', '--image-opts', opened('luks', 'l')],
  ['amend', '-o', 'state=inactive,keyslot=0,old-secret=w', '--image-opts', opened('luks', 'l')],
  ['amend', '-o', 'state=inactive,keyslot=0,iter-time=10', '--image-opts', opened('luks', 'l')],
  ['amend', '-o', 'state=inactive,old-secret=s', '--image-opts', opened('luks', 'l')],
  ['amend', '-o', 'state=inactive,old-secret=w', '--image-opts', opened('luks', 'l')],
  ['amend', '-o', 'encrypt.state=active', '--image-opts', opened('qcow2', 'q')],
  ['amend', '-o', 'encrypt.new-secret=n', '--image-opts', opened('qcow2', 'q')],
  ['amend', '-o', 'encrypt.format=luks', '--image-opts', opened('qcow2', 'q')],
  ['amend', '-o', 'encrypt.state=inactive,encrypt.keyslot=0', '--image-opts', opened('qcow2', 'q')],
  ['amend', '-o', 'encrypt.state=inactive,encrypt.keyslot=1', 'p'],
  ['amend', '-o', 'encrypt.state=inactive,encrypt.keyslot=1', '--image-opts', opened('qcow2', 'a')],
]

qemu.describe('varve img says the same of encrypted images as qemu-img', () => {
  it('in every case', { timeout }, async () => {
    using pair = new Pair()
    const objects = [
      ...secret,
      '--object',
      'secret,id=w,data=wrong',
      '--object',
      'secret,id=n,data=new',
    ]
    const options = { 'cipher-alg': 'aes-128' }
    for (const folder of [pair.ours, pair.theirs]) {
      await theirs(folder, createArguments({ format: 'luks', options }, 'l'))
      await theirs(folder, createArguments({ format: 'qcow2', options }, 'q'))
      await runTheirs(folder, ['create', '-q', '-f', 'qcow2', 'p', '1M'])
      const aes = 'encrypt.format=aes,encrypt.key-secret=s'
      await runTheirs(folder, ['create', '-q', ...secret, '-f', 'qcow2', '-o', aes, 'a', '1M'])
      const writes = [{ offset: 0, length: 4096, pattern: 1 }]
      await runTheirs(folder, ioArguments(opened('qcow2', 'q'), writes), 'qemu-io')
    }
    for (const [command, ...rest] of asked) {
      const args = [command, ...objects, ...rest]
      const expected = await theirs(pair.theirs, args)
      expect(withoutChance(await runOurs(pair.ours, args)), args.join(' ')).toEqual(
        withoutChance(expected),
      )
    }
  })
})

/** UUIDs and iterations are drawn. */
function withoutChance({ status, stdout, stderr }: Awaited<ReturnType<typeof runOurs>>) {
  const shown = stdout
    .replaceAll(/uuid: .*/g, 'uuid')
    .replaceAll(/iters: \d+/g, 'iters')
    .replaceAll(/disk size: .*/g, 'disk size')
  return { status, stdout: shown, stderr }
}

// Without the kernel's device-mapper, cryptsetup opens key slots of AES only.
cryptsetup.describe('cryptsetup', () => {
  it('opens what varve makes, and varve what cryptsetup makes', { timeout }, async () => {
    using pair = new Pair()
    const keyFile = join(pair.ours, 'key')
    const { writeFileSync } = await import('node:fs')
    writeFileSync(keyFile, 'open sesame')
    const options = { 'cipher-alg': 'aes-128', 'hash-alg': 'sha512' }
    expect(
      (await runOurs(pair.ours, createArguments({ format: 'luks', options }, 'ours'))).status,
    ).toBe(0)
    const ours = join(pair.ours, 'ours')
    await cryptsetup.run('open', '--test-passphrase', '--key-file', keyFile, ours)
    expect(await cryptsetup.run('luksDump', ours)).toContain('Hash spec:     \tsha512')

    const theirImage = join(pair.ours, 'theirs')
    writeFileSync(theirImage, new Uint8Array(4 * 1024 * 1024))
    for (const [cipher, bits] of [
      ['aes-xts-plain64', '512'],
      ['aes-cbc-essiv:sha256', '256'],
      ['aes-cbc-plain64', '192'],
      ['aes-cbc-plain', '128'],
    ]) {
      await cryptsetup.run(
        'luksFormat',
        '-q',
        '--type',
        'luks1',
        '--pbkdf-force-iterations',
        '1000',
        '-c',
        cipher,
        '-s',
        bits,
        '--key-file',
        keyFile,
        theirImage,
      )
      const map = ['map', '--output=json', ...secret, '--image-opts', opened('luks', theirImage)]
      expect(await runOurs(pair.ours, map), cipher).toMatchObject({ status: 0, stderr: '' })
      const add = [
        '--object',
        'secret,id=n,data=new',
        '-o',
        'state=active,new-secret=n,iter-time=10',
      ]
      const amend = ['amend', ...secret, ...add, '--image-opts', opened('luks', theirImage)]
      expect(await runOurs(pair.ours, amend), cipher).toMatchObject({ status: 0, stderr: '' })
      writeFileSync(join(pair.ours, 'new'), 'new')
      await cryptsetup.run(
        'open',
        '--test-passphrase',
        '--key-file',
        join(pair.ours, 'new'),
        '-S',
        '1',
        theirImage,
      )
    }
  })
})
