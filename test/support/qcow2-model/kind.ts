/** What kind of qcow2 image a random test works on: all creation options that go together. */
import fc from 'fast-check'

export interface Kind {
  /** Bytes of the disk. */
  readonly size: number
  readonly clusterSize: number
  readonly version: 2 | 3
  readonly refcountBits: number
  readonly lazyRefcounts: boolean
  readonly extendedL2: boolean
  readonly compression: 'zlib' | 'zstd'
  readonly preallocation: 'off' | 'metadata' | 'falloc' | 'full'
  readonly encryption: 'none' | 'aes' | 'luks'
  readonly dataFile: 'none' | 'plain' | 'raw'
  /** Bytes of the raw backing file. */
  readonly backing: number | undefined
}

const sectorSize = 512
const mebibyte = 1024 * 1024

const sizes = fc.oneof(
  { weight: 1, arbitrary: fc.integer({ min: 1, max: 300 }) },
  { weight: 3, arbitrary: fc.integer({ min: 1, max: (4 * mebibyte) / sectorSize }) },
  { weight: 1, arbitrary: fc.constantFrom(128, 2048, 4096) },
)

const anything = fc.record({
  sectors: sizes,
  clusterBits: fc.oneof(fc.integer({ min: 9, max: 21 }), fc.constantFrom(9, 12, 16)),
  version: fc.constantFrom<2 | 3>(2, 3, 3, 3),
  refcountOrder: fc.oneof(fc.constant(4), fc.integer({ min: 0, max: 6 })),
  lazyRefcounts: fc.boolean(),
  extendedL2: fc.constantFrom(false, false, true),
  compression: fc.constantFrom<Kind['compression']>('zlib', 'zstd'),
  preallocation: fc.constantFrom<Kind['preallocation']>('off', 'off', 'metadata', 'falloc', 'full'),
  encryption: fc.constantFrom<Kind['encryption']>('none', 'none', 'none', 'none', 'aes', 'luks'),
  dataFile: fc.constantFrom<Kind['dataFile']>('none', 'none', 'none', 'none', 'plain', 'raw'),
  backing: fc.option(sizes, { nil: undefined, freq: 1 }),
})

/** Any kind that both programs can make. */
export const kinds: fc.Arbitrary<Kind> = anything.map((drawn) => {
  const extendedL2 = drawn.extendedL2
  const dataFile = drawn.dataFile
  const version = extendedL2 || dataFile !== 'none' ? 3 : drawn.version
  const isNew = version === 3
  const backed = drawn.backing !== undefined && dataFile !== 'raw'
  const mayPreallocate = !backed || extendedL2
  return named({
    size: drawn.sectors * sectorSize,
    clusterSize: 2 ** Math.max(drawn.clusterBits, extendedL2 ? 14 : 9),
    version,
    refcountBits: isNew ? 2 ** drawn.refcountOrder : 16,
    lazyRefcounts: isNew && drawn.lazyRefcounts,
    extendedL2,
    compression: isNew ? drawn.compression : 'zlib',
    preallocation: mayPreallocate ? drawn.preallocation : 'off',
    encryption: drawn.encryption,
    dataFile,
    backing: backed ? drawn.backing! * sectorSize : undefined,
  })
})

/** Shown by fast-check as the command that makes it. */
function named(kind: Kind): Kind {
  const text = `${createOptions(kind)} ${kind.size}, backing file of ${kind.backing ?? 'no'} bytes`
  return Object.defineProperty(kind, fc.toStringMethod, { value: () => text })
}

/** As `create -o` takes them; the files are called `d` and `base`. */
export function createOptions(kind: Kind): string {
  const options: Record<string, string | number | boolean | undefined> = {
    cluster_size: kind.clusterSize,
    compat: kind.version === 2 ? '0.10' : '1.1',
    refcount_bits: kind.refcountBits === 16 ? undefined : kind.refcountBits,
    lazy_refcounts: kind.lazyRefcounts || undefined,
    extended_l2: kind.extendedL2 || undefined,
    compression_type: kind.compression === 'zlib' ? undefined : kind.compression,
    preallocation: kind.preallocation === 'off' ? undefined : kind.preallocation,
    data_file: kind.dataFile === 'none' ? undefined : 'd',
    data_file_raw: kind.dataFile === 'raw' || undefined,
    backing_file: kind.backing === undefined ? undefined : 'base',
    backing_fmt: kind.backing === undefined ? undefined : 'raw',
    ...(kind.encryption !== 'none' && {
      'encrypt.format': kind.encryption,
      'encrypt.key-secret': 's',
    }),
    ...(kind.encryption === 'luks' && {
      'encrypt.iter-time': 10,
      'encrypt.cipher-alg': 'aes-128',
    }),
  }
  return Object.entries(options)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${name}=${value === true ? 'on' : value}`)
    .join(',')
}

/** Bytes of the disk that one L2 table describes. */
export function coverage({ clusterSize, extendedL2 }: Kind): number {
  return clusterSize * (clusterSize / (extendedL2 ? 16 : 8))
}

/** A multiple of the sector size that a number from 0 to 1 stands for, from `least` to `most`. */
export function sectorsAt(part: number, least: number, most: number): number {
  const first = least / sectorSize
  return (first + Math.floor(part * (most / sectorSize - first + 0.999))) * sectorSize
}
