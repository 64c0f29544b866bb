/** Random command lines for qemu-io: options of the program, and commands that work on an image. */
import type { Random } from '../random.ts'
import { secretWords } from './secrets.ts'
import * as value from './values.ts'
import { strangers, type WorldFile } from './world.ts'

const places = [
  ...[
    '0',
    '1',
    '511',
    '512',
    '1k',
    '4k',
    '4095',
    '8k',
    '32k',
    '64k',
    '64K',
    '65535',
    '100k',
    '128k',
  ],
  ...[
    '192k',
    '250000',
    '512k',
    '0x10000',
    '010',
    '1000k',
    '1023k',
    '1048575',
    '1M',
    '1.5M',
    '2M',
    '3G',
  ],
]
const lengths = [
  ...[
    '0',
    '1',
    '7',
    '16',
    '511',
    '512',
    '513',
    '1k',
    '2k',
    '4k',
    '8k',
    '16k',
    '64k',
    '64K',
    '65537',
  ],
  ...['128k', '200k', '1M', '0x200', '1.5k', '2147483136', '2147483137', '2G', '3G'],
]
const nonsense = [
  '',
  'x',
  '-1',
  '1Q',
  '1.1',
  '08',
  '1 k',
  '-',
  '0x',
  '9E',
  '16E',
  '1e3',
  "'1'",
  '+1',
]

const place = (random: Random) => random.pick(random.chance(0.95) ? places : nonsense)
const length = (random: Random) => random.pick(random.chance(0.95) ? lengths : nonsense)
const pattern = (random: Random) =>
  random.chance(0.9)
    ? random.pick(['0', '1', '2', '5', '0xcd', '205', '255', '010', '0xff'])
    : random.pick(['256', '-1', 'x', '', '1k', '08'])

/** Each flag on its own, bundled, or with what it wants; the rest of the line is the command's. */
function flags(random: Random, letters: string, most = 2): string[] {
  const drawn: string[] = []
  for (let count = random.below(most + 1); count > 0; count--) drawn.push(random.pick([...letters]))
  if (drawn.length === 0) return []
  return random.chance(0.3) ? [`-${drawn.join('')}`] : drawn.map((letter) => `-${letter}`)
}

const maybe = (random: Random, chance: number, ...words: readonly string[]) =>
  random.chance(chance) ? [...words] : []

const vector = (random: Random) =>
  Array.from({ length: 1 + random.below(3) }, () =>
    random.pick(['0', '1', '512', '4k', '8k', '100']),
  )

type Draw = (random: Random) => string[]

const commands: readonly (readonly [number, Draw])[] = [
  [
    3,
    (random) => [
      random.pick(['read', 'read', 'r']),
      ...flags(random, 'CCpqqa'),
      ...maybe(random, 0.04, '-b'),
      ...maybe(random, 0.4, '-P', pattern(random)),
      ...maybe(random, 0.1, '-s', length(random)),
      ...maybe(random, 0.1, '-l', length(random)),
      ...(random.chance(0.1)
        ? ['-v', place(random), random.pick(['16', '20', '100', '0'])]
        : [place(random), length(random)]),
    ],
  ],
  [
    4,
    (random) => [
      random.pick(['write', 'write', 'w']),
      ...flags(random, 'Cfpqznu'),
      ...maybe(random, 0.2, '-z'),
      ...maybe(random, 0.03, '-b'),
      ...maybe(random, 0.08, '-c'),
      ...maybe(random, 0.4, '-P', pattern(random)),
      ...maybe(random, 0.04, '-s', random.pick(['text', 'nosuch', 'dir', 'empty', 'odd'])),
      place(random),
      length(random),
    ],
  ],
  [
    1,
    (random) => [
      'readv',
      ...flags(random, 'Cq'),
      ...maybe(random, 0.3, '-P', pattern(random)),
      place(random),
      ...vector(random),
    ],
  ],
  [
    1,
    (random) => [
      'writev',
      ...flags(random, 'Cqf'),
      ...maybe(random, 0.3, '-P', pattern(random)),
      place(random),
      ...vector(random),
    ],
  ],
  [
    0.7,
    (random) => [
      'aio_read',
      ...flags(random, 'Cqi', 1),
      ...maybe(random, 0.3, '-P', pattern(random)),
      place(random),
      ...vector(random),
    ],
  ],
  [
    0.7,
    (random) => [
      'aio_write',
      ...flags(random, 'Cqfzui', 1),
      ...maybe(random, 0.3, '-P', pattern(random)),
      place(random),
      ...vector(random),
    ],
  ],
  [
    1,
    (random) => [
      random.pick(['discard', 'd']),
      ...flags(random, 'Cq', 1),
      place(random),
      length(random),
    ],
  ],
  [1, () => ['aio_flush']],
  [0.5, (random) => [random.pick(['flush', 'f'])]],
  [0.6, (random) => [random.pick(['length', 'l'])]],
  [0.7, () => ['map']],
  [
    0.7,
    (random) => [random.pick(['alloc', 'a']), place(random), ...maybe(random, 0.7, length(random))],
  ],
  [0.3, (random) => [random.pick(['info', 'i'])]],
  [
    0.5,
    (random) => [
      random.pick(['truncate', 't']),
      ...maybe(random, 0.3, '-m', random.pick(['off', 'metadata', 'falloc', 'full', 'x', ''])),
      random.pick(['1M', '2M', '512', '100k', '1000', '0', '4M', 'x', '', '-1', '1.5M']),
    ],
  ],
  [
    0.5,
    (random) => [
      'reopen',
      ...flags(random, 'rw', 1),
      ...maybe(random, 0.2, '-c', value.cacheMode(random)),
      ...maybe(random, 0.2, '-o', random.pick(reopenOptions)),
    ],
  ],
  [0.2, () => ['close']],
  [
    0.3,
    (random) => [
      'open',
      ...flags(random, 'rsnkUC', 1),
      ...maybe(random, 0.2, '-t', value.cacheMode(random)),
      ...maybe(random, 0.1, '-d', random.pick(['unmap', 'ignore', 'on', 'off', 'x'])),
      ...maybe(
        random,
        0.4,
        '-o',
        random.pick(['driver=qcow2', 'driver=raw', 'driver=x', 'x=1', '']),
      ),
      ...maybe(random, 0.9, random.pick([value.file(random).name, ...strangers])),
    ],
  ],
  [
    0.2,
    (random) => ['help', ...maybe(random, 0.7, random.pick(['read', 'write', 'open', 'x', 'map']))],
  ],
  [0.1, (random) => ['sleep', random.pick(['0', '1', 'x', ''])]],
  [0.1, (random) => ['quit', ...maybe(random, 0.2, '1')]],
  [
    0.1,
    (random) => [
      random.pick(['sigraise x', 'sigraise 0', 'sigraise', '', ' ', 'nosuch', 'reads', '#']),
    ],
  ],
  [
    0.1,
    (random) => [
      random.pick(['break', 'break x y', 'resume x', 'remove_break x', 'break read_aio A']),
    ],
  ],
]

const reopenOptions = [
  ...[
    'lazy-refcounts=on',
    'discard=unmap',
    'detect-zeroes=on',
    'cache.direct=on',
    'x=1',
    'driver=raw',
  ],
  ...[
    'overlap-check=all',
    'read-only=on',
    'force-share=on',
    'node-name=x',
    'backing=',
    'file=x',
    '',
  ],
  ...['detect-zeroes=unmap,discard=unmap', 'l2-cache-size=1M', 'size=512', 'cache.no-flush=on'],
]

function command(random: Random): string {
  let at = random.next() * commands.reduce((sum, [weight]) => sum + weight, 0)
  const found = commands.find(([weight]) => {
    at -= weight
    return at < 0
  })
  const words = (found ?? commands[0])[1](random)
  // Sometimes too many words, or too few.
  if (random.chance(0.03)) words.splice(1 + random.below(words.length), 1)
  if (random.chance(0.03))
    words.splice(1 + random.below(words.length), 0, random.pick(['1', '-x', '--', 'y']))
  return words.join(' ')
}

/** One command line: the words behind the program's name. */
export function ioLine(random: Random): string[] {
  const file = value.file(random)
  const words: string[] = []
  for (let count = 1 + random.below(6); count > 0; count--) {
    const line = command(random)
    words.push(random.chance(0.95) ? '-c' : '--cmd', line)
    // When such a request reports is chance, unless somebody waits for it.
    if (line.startsWith('aio_')) words.push('-c', 'aio_flush')
  }
  const image = imageOf(random, file)
  words.push(...programOptions(random, file, image.opts))
  if (file.secret && random.chance(0.95)) words.unshift(...secretWords(random))
  return value.mangled(random, [...words, ...image.words])
}

function imageOf(random: Random, file: WorldFile): { opts: boolean; words: string[] } {
  if (random.chance(file.secret ? 0.9 : 0.1)) {
    return { opts: true, words: ['--image-opts', value.optionString(random, file)] }
  }
  if (random.chance(0.02)) return { opts: false, words: [] }
  const name = random.chance(0.96) ? value.spelled(random, file) : random.pick(strangers)
  return { opts: false, words: [name] }
}

function programOptions(random: Random, file: WorldFile, opts: boolean): string[] {
  return [
    ...(!opts && random.chance(0.85) ? ['-f', value.formatOf(random, file)] : []),
    ...maybe(random, 0.08, random.pick(['-r', '--read-only'])),
    ...maybe(random, 0.05, random.pick(['-s', '--snapshot'])),
    ...maybe(random, 0.04, '-C'),
    ...maybe(random, 0.04, '-n'),
    ...maybe(random, 0.03, '-m'),
    ...maybe(random, 0.02, '-k'),
    ...maybe(random, 0.04, '-U'),
    ...maybe(random, 0.05, '-i', random.pick(['threads', 'native', 'io_uring', 'x'])),
    ...maybe(random, 0.08, '-t', value.cacheMode(random)),
    ...maybe(random, 0.08, '-d', random.pick(['unmap', 'ignore', 'on', 'off', 'x'])),
    ...maybe(
      random,
      0.02,
      '--object',
      random.pick(['secret', 'secret,id=z,data=x', 'nosuch,id=x']),
    ),
    ...maybe(random, 0.01, random.pick(['-x', '--nonsense', '--cach=none'])),
  ]
}
