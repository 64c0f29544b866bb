/** Options of a new image: what `qemu-img create -f qcow2 -o help` lists, and their rules. */
import type { CreateOptionInfo } from '../../block/driver.ts'
import { missing, OptionReader } from '../../block/options.ts'
import { alignUp, KiB } from '../../bytes/range.ts'
import { invalid } from '../../errors.ts'
import { type AskedOptions, checkTogether, defaultRefcountBits } from './create-checks.ts'
import {
  type EncryptionOptions,
  parseEncryption,
  parseEncryptionFormat,
} from './encryption/create.ts'
import { type CompressionType, compressionTypes } from './header.ts'

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
  // In qemu-img's order, since it tells the first fault only: values first, then what they mean together.
  const encryptionFormat = parseEncryptionFormat(reader)
  const version = parseVersion(reader)
  const encryption = parseEncryption(reader, encryptionFormat)
  const preallocation = hyphenated(reader, 'preallocation', preallocations) ?? 'off'
  const compression = hyphenated(reader, 'compression_type', compressionTypes) ?? 'zlib'
  const asked: AskedOptions = {
    size: parseSizeOption(reader),
    version,
    clusterSize: reader.bytes('cluster_size') ?? defaultClusterSize,
    lazyRefcounts: reader.boolean('lazy_refcounts') ?? false,
    refcountBits: parseRefcountBits(reader),
    preallocation,
    compression,
    extendedL2: reader.boolean('extended_l2') ?? false,
    encryption,
    backingFile: reader.string('backing_file'),
    backingFormat: reader.string('backing_fmt'),
    dataFile: reader.string('data_file'),
    dataFileRaw: reader.boolean('data_file_raw') ?? false,
  }
  reader.finish()
  checkTogether(asked)
  const { backingFile, backingFormat, dataFile, dataFileRaw, ...rest } = asked
  return {
    ...rest,
    backing: backingFile ? { filename: backingFile, format: backingFormat } : undefined,
    dataFile: dataFile === undefined ? undefined : { filename: dataFile, raw: dataFileRaw },
  }
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

/** Rounded up to whole sectors. */
function parseSizeOption(reader: OptionReader): number {
  const asked = reader.bytes('size')
  if (asked === undefined) throw missing('size')
  return alignUp(asked, sectorSize)
}

function parseRefcountBits(reader: OptionReader): number {
  const value = reader.take('refcount_bits')
  if (value === undefined) return defaultRefcountBits
  const bits = typeof value === 'string' && /^\d+$/.test(value) ? Number(value) : value
  if (typeof bits === 'number') return bits
  throw invalid("Parameter 'refcount_bits' expects a number")
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
