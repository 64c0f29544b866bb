/** Small qcow2 images of every kind, made by whichever tools are given: something to damage. */
import type { Need } from './qcow2-damages.ts'
import type { Random } from './random.ts'

/** Runs qemu-img's or qemu-io's arguments; throws when they fail. */
export interface ImageTools {
  img(args: readonly string[]): Promise<void>
  io(args: readonly string[]): Promise<void>
}

export interface Flavour {
  readonly name: string
  /** As `create -o`. */
  readonly options: string
  readonly clusterSize: number
  readonly size: number
  readonly has: readonly Need[]
}

const flavour = (
  name: string,
  options: string,
  clusterSize: number,
  size: number,
  has: readonly Need[],
): Flavour => ({ name, options, clusterSize, size, has })

const KiB = 1024

export const flavours: readonly Flavour[] = [
  // qemu-img 7.2 frees what only snapshots have when it repairs an image with bitmaps too.
  flavour('default', 'cluster_size=64k', 64 * KiB, 4096 * KiB, [
    'compressed',
    'snapshots',
    'version 3',
    'wide refcounts',
    'large clusters',
    'zero entries',
  ]),
  flavour('small clusters', 'cluster_size=512', 512, 128 * KiB, [
    'blocks',
    'bitmaps',
    'compressed',
    'version 3',
    'wide refcounts',
    'zero entries',
  ]),
  flavour('narrow refcounts', 'cluster_size=4k,refcount_bits=1', 4 * KiB, 1024 * KiB, [
    'bitmaps',
    'compressed',
    'version 3',
    'large clusters',
    'zero entries',
  ]),
  flavour('version 2', 'cluster_size=1k,compat=0.10', KiB, 512 * KiB, [
    'blocks',
    'compressed',
    'snapshots',
    'wide refcounts',
    'large clusters',
  ]),
  flavour('bitmaps', 'cluster_size=64k', 64 * KiB, 4096 * KiB, [
    'bitmaps',
    'compressed',
    'version 3',
    'wide refcounts',
    'large clusters',
    'zero entries',
  ]),
  flavour('subclusters', 'cluster_size=16k,extended_l2=on', 16 * KiB, 2048 * KiB, [
    'compressed',
    'snapshots',
    'extended',
    'version 3',
    'wide refcounts',
    'large clusters',
  ]),
  flavour(
    'wide refcounts',
    'cluster_size=1k,refcount_bits=64,compression_type=zstd',
    KiB,
    512 * KiB,
    [
      'blocks',
      'compressed',
      'snapshots',
      'version 3',
      'wide refcounts',
      'large clusters',
      'zero entries',
    ],
  ),
  flavour('data file', 'cluster_size=4k,data_file=DATA', 4 * KiB, 1024 * KiB, [
    'data-file',
    'version 3',
    'wide refcounts',
    'large clusters',
  ]),
]

/** Makes an image with data, zeroes, holes, and whatever the flavour has. */
export async function makeFlavour(
  { options, clusterSize, size, has }: Flavour,
  file: string,
  { img, io }: ImageTools,
  random: Random,
): Promise<void> {
  const offers = (need: Need) => has.includes(need)
  const own = options.replace('DATA', `${file}.data`)
  await img(['create', '-q', '-f', 'qcow2', '-o', own, file, String(size)])
  const work = async (count: number) => {
    const commands: string[] = []
    for (let step = 0; step < count; step++) commands.push('-c', command(random, size, clusterSize))
    // Two clusters of data are wanted by every damage.
    commands.push('-c', `write -P 77 0 ${2 * clusterSize}`)
    commands.push('-c', `write -P 78 ${size / 2} ${2 * clusterSize}`)
    await io([...commands, file])
  }
  if (offers('compressed')) {
    const places = [size / 4, size / 4 + clusterSize, size - clusterSize]
    await io([...places.flatMap((at) => ['-c', `write -c -P 5 ${at} ${clusterSize}`]), file])
  }
  await work(6)
  if (offers('bitmaps')) {
    for (const name of ['b0', 'b1']) await img(['bitmap', '--add', file, name])
  }
  if (offers('zero entries')) await io(['-c', `write -z 0 ${4 * clusterSize}`, file])
  if (offers('snapshots')) {
    await img(['snapshot', '-c', 'one', file])
    await work(3)
    await img(['snapshot', '-c', 'two', file])
  }
  await work(4)
}

function command(random: Random, size: number, clusterSize: number): string {
  // Compressed clusters lie in the second quarter, and stay.
  const unit = clusterSize / 2
  const quarter = size / 4 / unit
  const first = random.pick([0, 2, 3]) * quarter + random.below(quarter - 2)
  const length = 1 + random.below(Math.min(12, quarter - 2))
  const end = Math.min(first + length, (Math.floor(first / quarter) + 1) * quarter - 2)
  const range = `${first * unit} ${Math.max(1, end - first) * unit}`
  const choice = random.next()
  if (choice < 0.7) return `write -P ${1 + random.below(250)} ${range}`
  return choice < 0.85 ? `write -z ${range}` : `discard ${range}`
}
