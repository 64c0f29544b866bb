/** What random command lines are made of: sizes, file names, formats, and what is nearly one. */
import type { Random } from '../random.ts'
import { escaped } from './secrets.ts'
import { files, strangers, type WorldFile } from './world.ts'

const sizes = [
  ...['0', '1', '511', '512', '513', '4096', '65536', '65537', '100000', '1048576', '1572864'],
  ...['1k', '4k', '4K', '64k', '64K', '100k', '1M', '1m', '1.5M', '2M', '0.5M', '1.1k', '600k'],
  ...['0x200', '0x10000', '0X1000', '010', '128k', '192k', '256k', '512k', '700k', '0.3M'],
]
const oddSizes = [
  ...[
    '',
    ' ',
    '-1',
    '-1k',
    '+1k',
    '1Q',
    '1kk',
    '1k ',
    ' 1k',
    'k',
    '.5M',
    '1.',
    '1e3',
    '0x1k',
    '0x',
  ],
  ...['abc', '1,5M', '1.5', '1.5b', '12b', '12B', '1.0000000001M', '0x1.8k', 'nan', 'inf', '1 M'],
  ...['9223372036854775807', '9223372036854775808', '18446744073709551615', '8E', '7.9E', '16E'],
  ...['18446744073709551616', '99999999999999999999', '-9223372036854775808', '--', '1\t', '+0'],
]

export const size = (random: Random) => random.pick(random.chance(0.85) ? sizes : oddSizes)

const counts = ['0', '1', '2', '3', '7', '8', '16', '17', '64', '-1', '', 'x', '1k', '0x2', '1.5']
export const count = (random: Random) =>
  random.chance(0.8) ? String(1 + random.below(16)) : random.pick(counts)

export const cacheMode = (random: Random) =>
  random.pick(
    random.chance(0.85)
      ? ['none', 'writeback', 'writethrough', 'directsync', 'unsafe']
      : ['', 'off', 'None', 'bad', 'write'],
  )

export const outputMode = (random: Random) =>
  random.pick(random.chance(0.85) ? ['json', 'human'] : ['', 'JSON', 'xml', 'j'])

export const format = (random: Random) =>
  random.pick(
    random.chance(0.9) ? ['raw', 'qcow2', 'qcow2', 'luks'] : ['', 'RAW', 'nosuch', 'file'],
  )

/** Mostly one that suits `file`. */
export const formatOf = (random: Random, file: WorldFile | undefined) =>
  file && random.chance(0.85) ? file.format : format(random)

const readable = files.filter(({ name }) => !['unknown', 'orphan', 'marked'].includes(name))

export const file = (random: Random) => random.pick(random.chance(0.9) ? readable : files)

/** The name as a user may spell it. */
export function spelled(random: Random, { name, format: driver }: WorldFile): string {
  if (random.chance(0.9)) return name
  return random.pick([
    `./${name}`,
    `file:${name}`,
    `dir/../${name}`,
    `json:{"driver":"${driver}","file":{"driver":"file","filename":"${name}"}}`,
    `json:{"file":{"driver":"file","filename":"${name}"}}`,
    `json:{"driver":"${driver}","file.filename":"${name}","file.driver":"file"}`,
    `json:{"driver":"raw","file":{"driver":"file","filename":"${name}"},"offset":"512"}`,
    `json:{"driver":"${driver}","file":{"driver":"file","filename":"${name}"},"nonsense":1}`,
    `json:{"driver":"file","filename":"${name}"}`,
    `json:{"driver":"${driver}"}`,
    `json:{'driver':'${driver}','file.filename':'${name}'}`,
    `json:{"driver":"null-co","size":65536,"read-zeroes":true}`,
    'json:{',
    'json:[]',
    'json:7',
  ])
}

/** As `--image-opts` wants it. */
export function optionString(random: Random, file: WorldFile): string {
  const { format: driver, secret } = file
  const name = escaped(file.name)
  const key = secret === 'luks' ? ',key-secret=k' : secret === 'own' ? `,encrypt.key-secret=k` : ''
  const sound = [
    `driver=${driver},file.filename=${name}${key}`,
    `driver=${driver},file.driver=file,file.filename=${name}${key}`,
    `file.filename=${name},driver=${driver}${key}`,
  ]
  if (random.chance(0.7)) return random.pick(sound)
  return random.pick([
    ...sound,
    name,
    `file.filename=${name}`,
    `driver=raw,file.filename=${name}`,
    `driver=raw,size=4096,file.filename=${name}`,
    `driver=raw,offset=1k,file.filename=${name}`,
    `driver=raw,offset=100,size=512,file.filename=${name}`,
    `driver=file,filename=${name}`,
    `driver=qcow2,backing=,file.filename=${name}`,
    `driver=qcow2,backing.driver=raw,backing.file.filename=r,file.filename=${name}`,
    `driver=${driver},read-only=on,file.filename=${name}${key}`,
    `driver=${driver},read-only=maybe,file.filename=${name}`,
    `driver=${driver},cache.direct=on,file.filename=${name}${key}`,
    `driver=${driver},discard=unmap,detect-zeroes=unmap,file.filename=${name}${key}`,
    `driver=${driver},detect-zeroes=on,file.filename=${name}${key}`,
    `driver=${driver},node-name=n0,file.filename=${name}${key}`,
    `driver=${driver},nonsense=1,file.filename=${name}`,
    `driver=${driver},file.nonsense=1,file.filename=${name}`,
    `driver=${driver},file.filename=nosuch`,
    `driver=${driver}`,
    `driver=nosuch,file.filename=${name}`,
    `driver=qcow2,lazy-refcounts=on,file.filename=${name}`,
    `driver=qcow2,lazy-refcounts=x,file.filename=${name}`,
    `driver=qcow2,overlap-check=all,file.filename=${name}`,
    `driver=qcow2,overlap-check=bad,file.filename=${name}`,
    `driver=qcow2,l2-cache-size=1M,file.filename=${name}`,
    `driver=qcow2,data-file.filename=outside.data,data-file.driver=file,file.filename=${name}`,
    `driver=copy-on-read,file.driver=${driver},file.file.filename=${name}`,
    `driver=throttle,file.driver=${driver},file.file.filename=${name}`,
    `driver=null-co,size=64k,read-zeroes=on`,
    `=`,
    `driver=${driver},,file.filename=${name}`,
    `filename=${name}`,
    `driver=${driver},file=${name}`,
  ])
}

const junk = [
  '',
  '-',
  '--',
  '-Z',
  '--nonsense',
  '-h',
  'x',
  '1',
  ' ',
  'é',
  '-qq',
  '--=',
  '---',
  '-1',
]

/** Something goes wrong with one of the words, now and then. */
export function mangled(random: Random, words: readonly string[]): string[] {
  const all = [...words]
  if (random.chance(0.85) || all.length === 0) return all
  const at = random.below(all.length)
  const kind = random.below(6)
  if (kind === 0) all.splice(at, 1)
  else if (kind === 1) all.splice(at, 0, all[at])
  else if (kind === 2) all.splice(at, 0, random.pick(junk))
  else if (kind === 3) all.splice(at, 0, '--')
  else if (kind === 4) all[at] = random.pick(strangers)
  else all.push(all.splice(at, 1)[0])
  return all
}
