/** The commands of qemu-img with all their options, and what random lines give them. */
import type { Random } from '../random.ts'
import { drawnOptions, preallocation } from './create-options.ts'
import * as value from './values.ts'
import { files, strangers, type WorldFile } from './world.ts'

/** What a line is about: options are drawn to fit it, mostly. */
export interface Subject {
  readonly file: WorldFile
  readonly other: WorldFile
}

type Value = (random: Random, subject: Subject) => string

export interface Option {
  readonly short?: string
  readonly long?: string
  readonly value?: Value
  /** How often a line has it; 0.15 unless given. */
  readonly chance?: number
}

export interface Command {
  readonly options: readonly Option[]
  readonly operands: (random: Random, subject: Subject) => string[]
  /** How often it is drawn, beside the others' 1. */
  readonly weight?: number
  /** `--image-opts` makes its first operand an option string. */
  readonly imageOpts?: boolean
}

const sourceFormat: Option = {
  short: 'f',
  chance: 0.5,
  value: (random, { file }) => value.formatOf(random, file),
}
const otherFormat: Option = {
  short: 'F',
  chance: 0.5,
  value: (random, { other }) => value.formatOf(random, other),
}
const quiet: Option = { short: 'q', long: 'quiet' }
const progress: Option = { short: 'p', chance: 0.05 }
const shared: Option = { short: 'U', long: 'force-share' }
const cache: Option = { short: 't', value: value.cacheMode, chance: 0.1 }
const sourceCache: Option = { short: 'T', value: value.cacheMode, chance: 0.1 }
const output: Option = { long: 'output', value: value.outputMode, chance: 0.4 }
const object: Option = {
  long: 'object',
  chance: 0.03,
  value: (random) =>
    random.pick([
      'secret,id=other,data=abc',
      'secret,id=k',
      'secret',
      'secret,data=x',
      'secret,id=k2,file=text',
      'secret,id=k3,file=nosuch',
      'secret,id=k4,data=x,format=base64',
      'secret,id=k5,data=x,nonsense=1',
      'nosuch,id=x',
      'id=x',
      '',
      'secret,id=1x,data=a',
      '{"qom-type":"secret","id":"j","data":"x"}',
      '{"qom-type":"secret"}',
      '{',
    ]),
}

const newOptions: Option = { short: 'o', value: drawnOptions, chance: 0.4 }

const newName = (random: Random) => random.pick(['t0', 't1', 't2', 't3'])
const target = (random: Random) =>
  random.chance(0.85) ? newName(random) : random.pick([...strangers, random.pick(files).name])

const named: Command['operands'] = (random, { file }) => [
  random.chance(0.96) ? value.spelled(random, file) : random.pick(strangers),
]

const snapshotName: Value = (random, { file }) =>
  random.pick([
    ...(file.snapshots ?? ['one']),
    ...(random.chance(0.4) ? ['1', '2', '3', 'new', 'nosuch', '', 'é', 'x'.repeat(300)] : []),
  ])
const snapshotParam: Value = (random, subject) =>
  random.chance(0.7)
    ? snapshotName(random, subject)
    : random.pick([
        'snapshot.id=1',
        'snapshot.name=one',
        'snapshot.id=1,snapshot.name=one',
        'snapshot.id=2,snapshot.name=one',
        'snapshot.nonsense=1',
        'snapshot.',
        'snapshot.id=',
        'snapshot.name=nosuch',
      ])
const bitmapName: Value = (random, { file }) =>
  random.pick([
    ...(file.bitmaps ?? ['b0']),
    ...(random.chance(0.4) ? ['b0', 'new', 'nosuch', '', 'é', 'n'.repeat(1030)] : []),
  ])

const blockSizes = ['512', '1000', '1k', '4k', '64k', '100k', '1M', '2M', '4M', '0', '-1', '4G']

export const commands: Readonly<Record<string, Command>> = {
  amend: {
    imageOpts: true,
    options: [
      sourceFormat,
      cache,
      quiet,
      progress,
      object,
      { long: 'force', chance: 0.1 },
      {
        short: 'o',
        chance: 0.95,
        value: (random, subject) =>
          random.chance(0.6)
            ? drawnOptions(random, subject)
            : random.pick([
                'encrypt.new-secret=k2,encrypt.state=active,encrypt.iter-time=10',
                'encrypt.state=inactive,encrypt.keyslot=0',
                'encrypt.state=bad',
                'state=active,new-secret=k,iter-time=10',
                'state=inactive,keyslot=1',
                'backing_file=',
                'backing_file=gone,backing_fmt=qcow2',
                'data_file=new.data',
                'compat=1.1,lazy_refcounts=on',
                'compat=0.10,lazy_refcounts=off',
                'refcount_bits=32',
              ]),
      },
    ],
    operands: named,
  },
  bench: {
    weight: 0.5,
    imageOpts: true,
    options: [
      sourceFormat,
      cache,
      quiet,
      object,
      shared,
      { short: 'c', value: value.count, chance: 0.95 },
      { short: 'd', value: value.count },
      { short: 'i', value: (random) => random.pick(['threads', 'native', 'io_uring', 'x']) },
      { short: 'n' },
      { long: 'no-drain' },
      { long: 'flush-interval', value: value.count },
      { long: 'pattern', value: (random) => random.pick(['0', '7', '255', '256', '-1', 'x']) },
      { short: 's', value: value.size },
      { short: 'S', value: value.size },
      { short: 'o', value: value.size },
      { short: 'w', chance: 0.4 },
    ],
    operands: named,
  },
  bitmap: {
    weight: 1.3,
    imageOpts: true,
    options: [
      sourceFormat,
      object,
      { long: 'add', chance: 0.4 },
      { long: 'remove' },
      { long: 'clear' },
      { long: 'enable' },
      { long: 'disable' },
      { long: 'merge', value: bitmapName },
      { short: 'b', value: (random) => random.pick(files).name, chance: 0.1 },
      otherFormat,
      { short: 'g', value: (random) => random.pick(['4k', '64k', '1M', '256', '3k', '', '4G']) },
    ],
    operands: (random, subject) => [...named(random, subject), bitmapName(random, subject)],
  },
  check: {
    weight: 0.8,
    imageOpts: true,
    options: [
      sourceFormat,
      output,
      quiet,
      object,
      shared,
      sourceCache,
      { short: 'r', long: 'repair', value: (random) => random.pick(['leaks', 'all', 'x', '']) },
    ],
    operands: named,
  },
  commit: {
    imageOpts: true,
    options: [
      sourceFormat,
      cache,
      quiet,
      progress,
      object,
      {
        short: 'b',
        value: (random) => random.pick([...files.map(({ name }) => name), 'gone', '']),
      },
      { short: 'd' },
      { short: 'r', value: (random) => random.pick(['100M', '1G', 'x', '0', '-1']), chance: 0.05 },
    ],
    operands: named,
  },
  compare: {
    imageOpts: true,
    options: [
      sourceFormat,
      otherFormat,
      quiet,
      progress,
      shared,
      sourceCache,
      object,
      { short: 's', chance: 0.3 },
    ],
    operands: (random, subject) => [
      ...named(random, subject),
      ...named(random, { ...subject, file: subject.other }),
    ],
  },
  convert: {
    weight: 2.5,
    imageOpts: true,
    options: [
      sourceFormat,
      cache,
      sourceCache,
      quiet,
      progress,
      shared,
      object,
      newOptions,
      { short: 'O', chance: 0.8, value: value.format },
      { short: 'B', value: (_, { other }) => other.name, chance: 0.1 },
      { short: 'F', value: (random, { other }) => value.formatOf(random, other), chance: 0.12 },
      { short: 'c' },
      { short: 'n', chance: 0.1 },
      { short: 'C', chance: 0.05 },
      { short: 'l', value: snapshotParam, chance: 0.1 },
      { short: 's', value: snapshotName, chance: 0.03 },
      { short: 'S', value: value.size },
      { short: 'r', value: (random) => random.pick(['100M', '1G', 'x', '0', '']), chance: 0.05 },
      { short: 'm', value: value.count },
      { short: 'W' },
      { long: 'salvage', chance: 0.1 },
      { long: 'target-is-zero', chance: 0.1 },
      { long: 'target-image-opts', chance: 0.05 },
      { long: 'bitmaps' },
      { long: 'skip-broken-bitmaps', chance: 0.05 },
    ],
    operands: (random, subject) => [
      ...named(random, subject),
      ...(random.chance(0.1) ? named(random, { ...subject, file: subject.other }) : []),
      target(random),
    ],
  },
  create: {
    weight: 1.5,
    options: [
      { short: 'f', value: value.format, chance: 0.8 },
      { ...newOptions, chance: 0.6 },
      quiet,
      object,
      { short: 'u' },
      { short: 'b', value: (_, { other }) => other.name, chance: 0.2 },
      { short: 'F', value: (random, { other }) => value.formatOf(random, other), chance: 0.2 },
      { short: '6', chance: 0.02 },
      { short: 'e', chance: 0.02 },
    ],
    operands: (random) => [target(random), ...(random.chance(0.75) ? [value.size(random)] : [])],
  },
  dd: {
    imageOpts: true,
    options: [sourceFormat, shared, object, { short: 'O', value: value.format, chance: 0.4 }],
    operands: (random, subject) => {
      const words = [`if=${named(random, subject)[0]}`, `of=${target(random)}`]
      if (random.chance(0.6))
        words.push(`bs=${random.chance(0.8) ? random.pick(blockSizes) : value.size(random)}`)
      if (random.chance(0.4))
        words.push(`count=${random.chance(0.5) ? value.count(random) : value.size(random)}`)
      if (random.chance(0.4)) words.push(`skip=${value.count(random)}`)
      if (random.chance(0.1)) words.push('bs=1', 'count=700')
      if (random.chance(0.05)) words.push(random.pick(['seek=1', 'bs', 'bs=', '=', 'if=', 'x=y']))
      return random.shuffled(words)
    },
  },
  info: {
    weight: 1.5,
    imageOpts: true,
    options: [sourceFormat, output, shared, object, { long: 'backing-chain' }],
    operands: named,
  },
  map: {
    weight: 1.5,
    imageOpts: true,
    options: [
      sourceFormat,
      output,
      shared,
      object,
      { short: 's', long: 'start-offset', value: value.size, chance: 0.25 },
      { short: 'l', long: 'max-length', value: value.size, chance: 0.25 },
    ],
    operands: named,
  },
  measure: {
    imageOpts: true,
    options: [
      sourceFormat,
      output,
      shared,
      object,
      newOptions,
      { short: 'O', value: value.format, chance: 0.8 },
      { short: 'l', value: snapshotParam, chance: 0.1 },
      { long: 'size', value: value.size, chance: 0.1 },
    ],
    operands: (random, subject) => (random.chance(0.9) ? named(random, subject) : []),
  },
  rebase: {
    weight: 1.3,
    imageOpts: true,
    options: [
      sourceFormat,
      cache,
      sourceCache,
      quiet,
      progress,
      shared,
      object,
      { short: 'u', chance: 0.4 },
      {
        short: 'b',
        chance: 0.9,
        value: (random, { other }) =>
          random.pick([other.name, other.name, 'a', 'b', 'r', '', 'gone', 'short', 'long']),
      },
      otherFormat,
    ],
    operands: named,
  },
  resize: {
    imageOpts: true,
    options: [
      sourceFormat,
      quiet,
      object,
      { long: 'shrink', chance: 0.4 },
      { long: 'preallocation', value: preallocation, chance: 0.2 },
    ],
    operands: (random, subject) => [
      ...named(random, subject),
      `${random.pick(['', '', '', '+', '-'])}${value.size(random)}`,
    ],
  },
  snapshot: {
    weight: 1.3,
    imageOpts: true,
    options: [
      sourceFormat,
      quiet,
      shared,
      object,
      { short: 'l', chance: 0.2 },
      { short: 'a', value: snapshotName, chance: 0.25 },
      { short: 'c', value: snapshotName, chance: 0.25 },
      { short: 'd', value: snapshotName, chance: 0.25 },
    ],
    operands: named,
  },
}
