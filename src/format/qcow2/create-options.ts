/** Options of a new image: what `qemu-img create -f qcow2 -o help` lists, and their rules. */
import type { CreateOptionInfo } from '../../block/driver.ts'
import { missing, OptionReader } from '../../block/options.ts'
import { alignUp, isPowerOfTwo, KiB, maxDiskSize } from '../../bytes/range.ts'
import { BlockError } from '../../errors.ts'
import { type EncryptionOptions, parseEncryption } from './encryption/create.ts'
import { type CompressionType, compressionTypes, incompatible, l1SizeFor } from './header.ts'
import { maxBackingNameBytes, maxClusterBits, maxL1Bytes, minClusterBits } from './limits.ts'
import { minExtendedClusterBits } from './subclusters.ts'

export interface Qcow2CreateOptions {
  /** Bytes; a multiple of 512. */
  readonly size: number
  readonly version: 2 | 3
  readonly backing?: { readonly filename: string; readonly format?: string }
  readonly clusterSize: number
  readonly lazyRefcounts: boolean
  readonly refcountBits: number
  readonly preallocation: Preallocation
  readonly compression: CompressionType
  readonly encryption?: EncryptionOptions
  readonly extendedL2: boolean
  /** The guest's data goes to a file of its own, which `CreateContext.dataFile` is. */
  readonly dataFile?: { readonly filename: string; readonly raw: boolean }
}

const preallocations = ['off', 'metadata', 'falloc', 'full'] as const
export type Preallocation = (typeof preallocations)[number]

const defaultClusterSize = 64 * KiB
const defaultRefcountBits = 16
const sectorSize = 512

export const createOptionInfo: readonly CreateOptionInfo[] = [
  { name: 'backing_file', type: 'str', description: 'File name of a base image' },
  { name: 'backing_fmt', type: 'str', description: 'Image format of the base image' },
  { name: 'cluster_size', type: 'size', description: 'qcow2 cluster size' },
  { name: 'compat', type: 'str', description: 'Compatibility level (v2 [0.10] or v3 [1.1])' },
  {
    name: 'compression_type',
    type: 'str',
    description: 'Compression method used for image cluster compression',
  },
  { name: 'data_file', type: 'str', description: 'File name of an external data file' },
  {
    name: 'data_file_raw',
    type: 'bool',
    description: 'The external data file must stay valid as a raw image',
  },
  { name: 'encrypt.cipher-alg', type: 'str', description: 'Name of encryption cipher algorithm' },
  { name: 'encrypt.cipher-mode', type: 'str', description: 'Name of encryption cipher mode' },
  {
    name: 'encrypt.format',
    type: 'str',
    description: "Encrypt the image, format choices: 'aes', 'luks'",
  },
  { name: 'encrypt.hash-alg', type: 'str', description: 'Name of encryption hash algorithm' },
  {
    name: 'encrypt.iter-time',
    type: 'num',
    description: 'Time to spend in PBKDF in milliseconds',
  },
  { name: 'encrypt.ivgen-alg', type: 'str', description: 'Name of IV generator algorithm' },
  {
    name: 'encrypt.ivgen-hash-alg',
    type: 'str',
    description: 'Name of IV generator hash algorithm',
  },
  {
    name: 'encrypt.key-secret',
    type: 'str',
    description: 'ID of secret providing qcow AES key or LUKS passphrase',
  },
  {
    name: 'encryption',
    type: 'bool',
    description: "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
  },
  { name: 'extended_l2', type: 'bool', description: 'Extended L2 tables' },
  { name: 'lazy_refcounts', type: 'bool', description: 'Postpone refcount updates' },
  {
    name: 'preallocation',
    type: 'str',
    description: 'Preallocation mode (allowed values: off, metadata, falloc, full)',
  },
  { name: 'refcount_bits', type: 'num', description: 'Width of a reference count entry in bits' },
  { name: 'size', type: 'size', description: 'Virtual disk size' },
]

/** Names that QMP has for some of them. */
const qmpNames: Readonly<Record<string, string>> = {
  'backing-file': 'backing_file',
  'backing-fmt': 'backing_fmt',
  'cluster-size': 'cluster_size',
  version: 'compat',
  'compression-type': 'compression_type',
  'data-file': 'data_file',
  'data-file-raw': 'data_file_raw',
  'extended-l2': 'extended_l2',
  'lazy-refcounts': 'lazy_refcounts',
  'refcount-bits': 'refcount_bits',
  encrypt: 'encrypt.format',
}

export function parseCreateOptions(options: Readonly<Record<string, unknown>>): Qcow2CreateOptions {
  const reader = new OptionReader(withCreateNames(options))
  const version = parseVersion(reader)
  const clusterSize = parseClusterSize(reader)
  const extendedL2 = reader.boolean('extended_l2') ?? false
  const parsed: Qcow2CreateOptions = {
    size: parseSizeOption(reader, clusterSize, extendedL2),
    version,
    backing: parseBacking(reader),
    clusterSize,
    lazyRefcounts: reader.boolean('lazy_refcounts') ?? false,
    refcountBits: parseRefcountBits(reader),
    preallocation: hyphenated(reader, 'preallocation', preallocations) ?? 'off',
    compression: hyphenated(reader, 'compression_type', compressionTypes) ?? 'zlib',
    extendedL2,
    encryption: parseEncryption(reader),
    dataFile: parseDataFile(reader),
  }
  reader.finish()
  checkTogether(parsed)
  return parsed
}

function withCreateNames(options: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const named: Record<string, unknown> = {}
  for (const [given, value] of Object.entries(options)) {
    const name = qmpNames[given] ?? given
    if (!createOptionInfo.some((option) => option.name === name)) {
      throw invalid(`Invalid parameter '${given}'`)
    }
    named[name] = value
  }
  return named
}

function parseVersion(reader: OptionReader): 2 | 3 {
  const compat = reader.string('compat') ?? 'v3'
  if (compat === '0.10' || compat === 'v2') return 2
  if (compat === '1.1' || compat === 'v3') return 3
  throw invalid(`Parameter 'version' does not accept value '${compat}'`)
}

function parseClusterSize(reader: OptionReader): number {
  const size = reader.bytes('cluster_size') ?? defaultClusterSize
  if (isPowerOfTwo(size) && size >= 2 ** minClusterBits && size <= 2 ** maxClusterBits) return size
  throw invalid('Cluster size must be a power of two between 512 and 2048k')
}

/** Rounded up to whole sectors. */
function parseSizeOption(reader: OptionReader, clusterSize: number, extendedL2: boolean): number {
  const asked = reader.bytes('size')
  if (asked === undefined) throw missing('size')
  const size = alignUp(asked, sectorSize)
  const l1Size = l1SizeFor(size, {
    clusterBits: Math.log2(clusterSize),
    incompatibleFeatures: extendedL2 ? incompatible.extendedL2 : 0n,
  })
  if (size <= maxDiskSize && l1Size * 8 <= maxL1Bytes) return size
  throw new BlockError(
    'INVALID_ARGUMENT',
    "The image size is too large for file format 'qcow2' (try using a larger cluster size)",
    { errno: 'EFBIG' },
  )
}

function parseBacking(reader: OptionReader): { filename: string; format?: string } | undefined {
  const filename = reader.string('backing_file')
  const format = reader.string('backing_fmt')
  if (filename === undefined || filename === '') {
    if (format !== undefined) throw invalid('Backing format cannot be used without backing file')
    return undefined
  }
  if (Buffer.byteLength(filename) > maxBackingNameBytes) throw invalid('Backing file name too long')
  return { filename, format }
}

function parseDataFile(reader: OptionReader): Qcow2CreateOptions['dataFile'] {
  const filename = reader.string('data_file')
  const raw = reader.boolean('data_file_raw') ?? false
  if (filename !== undefined) return { filename, raw }
  if (raw) throw invalid('data-file-raw requires data-file')
  return undefined
}

function parseRefcountBits(reader: OptionReader): number {
  const value = reader.take('refcount_bits')
  if (value === undefined) return defaultRefcountBits
  const bits = typeof value === 'string' && /^\d+$/.test(value) ? Number(value) : value
  if (typeof bits !== 'number') throw invalid("Parameter 'refcount_bits' expects a number")
  if (isPowerOfTwo(bits) && bits <= 64) return bits
  throw invalid('Refcount width must be a power of two and may not exceed 64 bits')
}

/** As `oneOf`; the error names the option as QMP does. */
function hyphenated<const T extends string>(
  reader: OptionReader,
  name: string,
  allowed: readonly T[],
): T | undefined {
  const value = reader.string(name)
  const found = allowed.find((one) => one === value)
  if (value === undefined || found) return found
  const shown = name.replaceAll('_', '-')
  throw invalid(`Parameter '${shown}' does not accept value '${value}'`)
}

const needsV3 = 'compatibility level 1.1 and above (use version=v3 or greater)'

/** In qemu-img's order, since it tells the first fault only. */
function checkTogether(options: Qcow2CreateOptions): void {
  if (options.encryption && options.preallocation !== 'off' && options.version < 3) {
    throw new BlockError(
      'UNSUPPORTED',
      'Preallocation of encrypted images is only supported with compatibility level 1.1 and above',
      { errno: 'ENOTSUP' },
    )
  }
  if (options.extendedL2) checkExtended(options)
  if (options.preallocation !== 'off' && options.backing && !options.extendedL2) {
    throw invalid(
      'Backing file and preallocation can only be used at the same time if extended_l2 is on',
    )
  }
  if (options.version < 3) checkVersion2(options)
  if (options.dataFile) checkDataFile(options)
}

function checkExtended({ version, clusterSize }: Qcow2CreateOptions): void {
  if (version < 3) throw invalid(`Extended L2 entries are only supported with ${needsV3}`)
  const smallest = 2 ** minExtendedClusterBits
  if (clusterSize >= smallest) return
  throw invalid(
    `Extended L2 entries are only supported with cluster sizes of at least ${smallest} bytes`,
  )
}

function checkVersion2(options: Qcow2CreateOptions): void {
  if (options.refcountBits !== defaultRefcountBits) {
    throw invalid(
      'Different refcount widths than 16 bits require compatibility level 1.1 or above ' +
        '(use version=v3 or greater)',
    )
  }
  if (options.lazyRefcounts) throw invalid(`Lazy refcounts only supported with ${needsV3}`)
  if (options.compression !== 'zlib') {
    throw invalid(`Non-zlib compression type is only supported with ${needsV3}`)
  }
}

function checkDataFile({ dataFile, backing, version }: Qcow2CreateOptions): void {
  if (dataFile?.raw && backing) {
    throw invalid('Backing file and data-file-raw cannot be used at the same time')
  }
  if (version < 3) throw invalid(`External data files are only supported with ${needsV3}`)
}

function invalid(message: string): BlockError {
  return new BlockError('INVALID_ARGUMENT', message, { errno: 'EINVAL' })
}
