/** Random command lines of qemu-nbd that come to serve something, and clients that look at it. */
import type { Random } from '../random.ts'
import * as value from './values.ts'
import { files, type WorldFile } from './world.ts'

export interface Serving {
  /** The words behind the program's name; `SOCKET` stands for the socket's path. */
  readonly words: readonly string[]
  readonly persistent: boolean
  readonly clients: readonly ClientLine[]
}

/** A program that is no part of QEMU's server, and its words; `SOCKET` as above. */
export interface ClientLine {
  readonly program: string
  readonly words: readonly string[]
}

const maybe = (random: Random, chance: number, draw: () => readonly string[]) =>
  random.chance(chance) ? draw() : []

/** Without those whose keys take seconds to derive. */
const servable = files.filter(({ secret }) => secret === undefined)

export function serving(random: Random): Serving {
  const file = random.pick(servable)
  const persistent = random.chance(0.6)
  const name = random.chance(0.3) ? random.pick(['x', 'a b', 'ä', 'n'.repeat(200)]) : ''
  const bitmaps = bitmapsFor(random, file)
  const opts = random.chance(0.15)
  const words = [
    ['-k', 'SOCKET'],
    persistent ? ['-t'] : [],
    maybe(random, 0.25, () => ['-r']),
    maybe(random, 0.12, () => ['-s']),
    maybe(random, 0.12, () => ['-l', snapshotOf(random, file)]),
    maybe(random, 0.25, () => ['-e', random.pick(['0', '1', '2', '5'])]),
    name ? ['-x', name] : [],
    maybe(random, 0.2, () => ['-D', random.pick(['text', 'ein Text', 'é'])]),
    bitmaps.flatMap((bitmap) => ['-B', bitmap]),
    maybe(random, 0.25, () => ['-A']),
    maybe(random, 0.2, () => [
      '-o',
      // Of what is no multiple of 512 qemu-nbd never finishes a map.
      random.pick(['0', '512', '65536', '1048576', '1048064', '0x1000', '2000000']),
    ]),
    opts || random.chance(0.08) ? [] : ['-f', value.formatOf(random, file)],
    random.chance(0.1)
      ? ['--cache=none', '--aio=native']
      : maybe(random, 0.25, () => [`--cache=${value.cacheMode(random)}`]),
    maybe(random, 0.1, () => [`--aio=${random.pick(['threads', 'io_uring'])}`]),
    maybe(random, 0.3, () => [`--discard=${random.pick(['unmap', 'ignore', 'on', 'off'])}`]),
    maybe(random, 0.25, () => [`--detect-zeroes=${random.pick(['on', 'off', 'unmap'])}`]),
    maybe(random, 0.1, () => ['--pid-file', 'pid']),
  ]
  const operand = opts ? value.optionString(random, file) : value.spelled(random, file)
  return {
    words: [...random.shuffled(words).flat(), ...(opts ? ['--image-opts'] : []), operand],
    persistent,
    clients: Array.from({ length: 1 + random.below(5) }, () => client(random, name, bitmaps)),
  }
}

function bitmapsFor(random: Random, file: WorldFile): string[] {
  if (file.bitmaps) return random.chance(0.6) ? random.shuffled(file.bitmaps).slice(0, 2) : []
  return random.chance(0.03) ? ['b0'] : []
}

function snapshotOf(random: Random, file: WorldFile): string {
  return random.pick([
    ...(file.snapshots ?? ['one']),
    ...(random.chance(0.3) ? ['1', '2', 'snapshot.id=1', 'snapshot.name=one', 'nosuch'] : []),
  ])
}

const places = ['0', '512', '64k', '128k', '300k', '500k', '511k', '1000', '1023k', '100001']
const lengths = ['1', '512', '1k', '4k', '64k', '100k', '128k']

function command(random: Random): string {
  const place = random.pick(places)
  const length = random.pick(lengths)
  return random.pick([
    `read -v ${place} 32`,
    `read ${place} ${length}`,
    `write -P ${random.pick([0, 1, 7, 0])} ${place} ${length}`,
    `write -f -P 5 ${place} ${length}`,
    `write -z ${place} ${length}`,
    `write -z -u ${place} ${length}`,
    `write -z -n ${place} ${length}`,
    `discard ${place} ${length}`,
    'flush',
    'length',
    'map',
    `alloc ${place}`,
    'info',
    'truncate 2M',
  ])
}

function client(random: Random, name: string, bitmaps: readonly string[]): ClientLine {
  // Sometimes for what is not there.
  const wanted = random.chance(0.93) ? name : random.pick(['', 'x', 'other'])
  const uri = `nbd+unix:///${encodeURIComponent(wanted)}?socket=SOCKET`
  const options = `driver=nbd,server.type=unix,server.path=SOCKET${wanted ? `,export=${wanted}` : ''}`
  const contexts = [
    'base:allocation',
    'qemu:allocation-depth',
    ...['b0', ...bitmaps].map((bitmap) => `qemu:dirty-bitmap:${bitmap}`),
  ]
  const io = () => ({
    program: 'qemu-io',
    words: [
      ...random.pick([
        ['-f', 'raw', uri],
        ['--image-opts', options],
        ['-r', '-f', 'raw', uri],
        ['-t', 'writeback', '-d', 'unmap', '-f', 'raw', uri],
      ]),
      ...Array.from({ length: 1 + random.below(4) }, () => ['-c', command(random)]).flat(),
    ],
  })
  const dirty = random.pick(contexts.slice(2))
  return random.pick<() => ClientLine>([
    () => ({ program: 'nbdinfo', words: ['--json', uri] }),
    () => ({ program: 'nbdinfo', words: ['--list', '--json', uri] }),
    () => ({ program: 'nbdinfo', words: ['--size', uri] }),
    () => ({ program: 'nbdinfo', words: ['--can', random.pick(['trim', 'write', 'df']), uri] }),
    () => ({ program: 'nbdinfo', words: [`--map=${random.pick(contexts)}`, uri] }),
    () => ({ program: 'nbdinfo', words: ['--map=qemu:', uri] }),
    () => ({ program: 'qemu-nbd', words: ['-L', '-k', 'SOCKET'] }),
    () => ({ program: 'qemu-img', words: ['info', '--output=json', uri] }),
    () => ({ program: 'qemu-img', words: ['map', '-f', 'raw', '--output=json', uri] }),
    () => ({
      program: 'qemu-img',
      words: [
        'map',
        '--output=json',
        '--image-opts',
        `${options},x-dirty-bitmap=${dirty.replaceAll(',', ',,')}`,
      ],
    }),
    () => ({ program: 'qemu-img', words: ['convert', '-f', 'raw', '-O', 'qcow2', uri, 'copy'] }),
    () => ({ program: 'nbdcopy', words: [uri, 'copy.raw'] }),
    io,
    io,
    io,
    io,
  ])()
}
