/**
 * Random combinations of all options that `qemu-img create -f qcow2` has, sound and not: the same
 * answer, and where an image comes of it, the same header to the byte (apart from where its tables
 * lie), the same extensions in the same order, the same file size, `info`, `map` and `check`; and
 * `measure` says the same before. VARVE_LONG=1 goes on for minutes, VARVE_LONG=600 for so many seconds.
 */
import { mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { alignUp } from '../../src/bytes/range.ts'
import { extensionType } from '../../src/format/qcow2/extensions.ts'
import { Faults } from '../../src/format/qcow2/faults.ts'
import { decodeHeader } from '../../src/format/qcow2/header.ts'
import { type Outcome, peer } from '../peers.ts'
import { scratchFolder } from '../support/folder.ts'
import { runOurs, runTheirs } from '../support/img.ts'
import { Random, runSeed, seedNote } from '../support/random.ts'

const qemu = peer('qemu-img')
const folder = scratchFolder('create-random')
const ours = join(folder, 'o')
const theirs = join(folder, 'q')
const { VARVE_LONG } = process.env
const seconds = VARVE_LONG ? Math.max(120, Number(VARVE_LONG)) : 8
const secret = ['--object', 'secret,id=s,data=open sesame']

/** Values that go, then values that do not, of each option; what is drawn together is up to chance. */
const values: Readonly<Record<string, readonly [readonly string[], readonly string[]]>> = {
  cluster_size: [
    ['512', '1k', '2048', '4k', '8k', '16k', '32k', '64k', '128k', '256k', '512k', '1M', '2M'],
    ['0', '256', '4M', '3k', 'x', ''],
  ],
  compat: [
    ['0.10', '1.1', 'v2', 'v3', '1.1', 'v3'],
    ['1.0', '', '2'],
  ],
  refcount_bits: [
    ['1', '2', '4', '8', '16', '32', '64'],
    ['0', '3', '128', 'x', '-1'],
  ],
  lazy_refcounts: [
    ['on', 'off'],
    ['yes', ''],
  ],
  extended_l2: [['on', 'on', 'off'], ['1']],
  compression_type: [
    ['zlib', 'zstd'],
    ['lzo', ''],
  ],
  preallocation: [
    ['off', 'metadata', 'falloc', 'full'],
    ['bad', 'FULL'],
  ],
  data_file: [['d'], ['d']],
  data_file_raw: [['on', 'off'], ['maybe']],
  'encrypt.format': [
    ['aes', 'aes', 'aes', 'luks'],
    ['des', ''],
  ],
  'encrypt.key-secret': [
    ['s', 's', 's'],
    ['nobody', ''],
  ],
  encryption: [['on', 'off'], ['x']],
  backing_file: [['base', 'base.qcow2', ''], ['nofile']],
  backing_fmt: [['raw', 'qcow2'], ['raw']],
  nocow: [['on', 'off'], ['x']],
  extent_size_hint: [['0', '1M'], ['x']],
}

const sizes = ['0', '512', '65536', '66048', '1M', '3146240', '8M', '20M']
const largeSizes = ['1G', '64G', '1T', '100T', '4P']
const oddSizes = ['1', '511', '1000', '-1', 'x', '1e3', '9E', '0x10000', '1.5M']

/** What is refused, each for a reason of its own. */
const faults: readonly string[] = [
  'compat=2',
  'encrypt.key-secret=s',
  'encrypt.format=des',
  'encrypt.format=aes',
  'encrypt.format=aes,encrypt.cipher-alg=aes-256',
  'encryption=on,encrypt.format=aes',
  'preallocation=bad',
  'compression_type=lzo',
  'extended_l2=on,compat=0.10',
  'cluster_size=3k',
  'extended_l2=on,cluster_size=4k',
  'preallocation=metadata,backing_file=base,backing_fmt=raw',
  'backing_fmt=raw',
  'lazy_refcounts=on,compat=0.10',
  'refcount_bits=3',
  'refcount_bits=8,compat=0.10',
  'data_file=d,data_file_raw=on,backing_file=base,backing_fmt=raw',
  'data_file=d,compat=0.10',
  'data_file_raw=on',
  'compression_type=zstd,compat=0.10',
  'cluster_size=512,size=1T',
  `backing_file=${'x'.repeat(1025)},backing_fmt=raw`,
]

qemu.describe('new qcow2 images', () => {
  it('are refused for what qemu-img tells first, of two faults', async () => {
    await renew()
    for (const [index, one] of faults.entries()) {
      for (const other of faults.slice(index)) {
        const together = merged(one, other)
        if (together === undefined) continue
        const words = ['create', '-u', '-q', ...secret, '-f', 'qcow2', '-o', together, 'i']
        await same(words, together)
      }
    }
  })

  const timeout = (seconds + 60) * 1000
  it(`are the same, whatever is asked for (${seedNote})`, { timeout }, async () => {
    const end = Date.now() + seconds * 1000
    for (let round = 0; Date.now() < end; round++) {
      const seed = runSeed + round
      await tryOne(new Random(seed), `VARVE_SEED=${seed}`)
    }
  })
})

async function renew(): Promise<void> {
  for (const each of [ours, theirs]) {
    rmSync(each, { recursive: true, force: true })
    mkdirSync(each, { recursive: true })
    writeFileSync(join(each, 'base'), Buffer.alloc(1 << 20, 7))
    await runTheirs(each, 'create -q -f qcow2 base.qcow2 3M'.split(' '))
  }
}

/** Undefined where they contradict each other. */
function merged(one: string, other: string): string | undefined {
  const values = new Map([['size', '1M']])
  for (const option of [one, other]) {
    for (const each of option.split(',')) {
      const [name, value] = each.split('=')
      if (name !== 'size' && (values.get(name) ?? value) !== value) return undefined
      values.set(name, value)
    }
  }
  return [...values].map(([name, value]) => `${name}=${value}`).join(',')
}

async function tryOne(random: Random, seedText: string): Promise<void> {
  const { options, size } = draw(random)
  await renew()
  const list = options.length > 0 ? ['-o', options.join(',')] : []
  const given = size === undefined ? [] : [size]
  const note = `${seedText}: ${[...list, ...given].join(' ')}`
  await same(['measure', ...secret, '-O', 'qcow2', ...list, '--size', size ?? '1M'], note)
  const made = await same(['create', ...secret, '-f', 'qcow2', ...list, 'i', ...given], note)
  if (made?.status !== 0) return
  const head = headOf(ours)
  expect(head, note).toEqual(headOf(theirs))
  // QEMU fills up the last cluster of tables where no cluster of the disk follows.
  if (size !== '0') {
    expect(lengthOf(ours, 'i'), `${note}: length`).toBe(lengthOf(theirs, 'i'))
  }
  // A data file of ours ends with the disk, as a rule, one of QEMU's with the cluster.
  const [own, other] = [ours, theirs].map((each) =>
    alignUp(lengthOf(each, 'd') ?? 0, 2 ** head.clusterBits),
  )
  expect(own, `${note}: length of the data file`).toBe(other)
  const key = /encrypt\.format|encryption=on/.test(note) ? ',encrypt.key-secret=s' : ''
  const image = ['--image-opts', `driver=qcow2,file.filename=i${key}`]
  // What is enciphered ahead is marked as zero besides: a data file's cluster 0 has no place then.
  const marked = key !== '' && /preallocation=[mf]|raw=on/.test(note)
  if (!marked) await same(['check', ...secret, ...image], note, withoutEnd)
  await same(['info', '--output=json', 'i'], note, withoutSpace)
}

function draw(random: Random): { options: string[]; size: string | undefined } {
  const options: string[] = []
  const few = random.chance(0.5) ? 0.12 : 0.3
  for (const [name, [sound, unsound]] of Object.entries(values)) {
    if (!random.chance(few)) continue
    options.push(`${name}=${random.pick(random.chance(0.04) ? unsound : sound)}`)
  }
  if (options.some((each) => /^encrypt.format/.test(each)) && random.chance(0.8)) {
    options.push('encrypt.key-secret=s')
  }
  if (options.some((each) => each.startsWith('encrypt.format=luks'))) {
    options.push('encrypt.iter-time=10')
  }
  if (options.some((each) => each.startsWith('data_file_raw')) && random.chance(0.7)) {
    options.push('data_file=d')
  }
  if (options.some((each) => each.startsWith('backing_file')) && random.chance(0.6)) {
    options.push(`backing_fmt=${options.includes('backing_file=base') ? 'raw' : 'qcow2'}`)
  }
  const mayBeLarge = !options.some((each) => /^(preallocation|data_file)/.test(each))
  const pool = random.chance(0.06)
    ? oddSizes
    : mayBeLarge && random.chance(0.3)
      ? largeSizes
      : sizes
  const size = random.chance(0.05) ? undefined : random.pick(pool)
  return { options: random.shuffled(options), size }
}

/** Both, once more where the clock stood still by which qemu-img times keys. */
async function same(
  words: readonly string[],
  note: string,
  shown: (outcome: Outcome) => unknown = withoutLineEnd,
): Promise<Outcome | undefined> {
  const their = await runTheirs(theirs, words)
  if (their.stderr.includes('accurate CPU usage')) return undefined
  const our = await runOurs(ours, words)
  expect(shown(our), `${note}: ${words[0]}`).toEqual(shown(their))
  return our
}

/** Hints of qemu-img end without one. */
function withoutLineEnd({ stderr, ...rest }: Outcome) {
  return { ...rest, stderr: stderr.trimEnd() }
}

function withoutEnd({ stdout, ...rest }: Outcome) {
  return { ...rest, stdout: stdout.replace(/Image end offset: \d+\n/, '') }
}

function withoutSpace({ stdout, ...rest }: Outcome) {
  return { ...rest, stdout: stdout.replaceAll(/"(actual-size|uuid|(master-key-)?iters)": .*/g, '') }
}

function lengthOf(where: string, name: string): number | undefined {
  return statSync(join(where, name), { throwIfNoEntry: false })?.size
}

/**
 * All of the header, apart from where the tables and the backing file's name lie: in front of a name
 * that reaches into the second sector we leave room for the record of bitmaps.
 */
function headOf(where: string) {
  const bytes = readFileSync(join(where, 'i')).subarray(0, 65_536)
  const header = decodeHeader(bytes, new Faults('i'))
  const { l1TableOffset: _, refcountTableOffset: __, extensions, ...fields } = header
  const { backingFileOffset: ___, ...others } = fields
  const end = header.backingFileOffset + header.backingFileSize
  return {
    ...others,
    extensions: extensions.map(({ type, data }) => ({
      type,
      // The place of the key material, and its length.
      data: Buffer.from(type === extensionType.encryption ? data.subarray(8) : data).toString(
        'hex',
      ),
    })),
    name: bytes.subarray(header.backingFileOffset, end).toString('latin1'),
  }
}
