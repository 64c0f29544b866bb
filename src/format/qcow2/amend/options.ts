/** What can be changed of an existing image: `qemu-img amend -f qcow2 -o help` lists the same. */
import type { CreateOptionInfo } from '../../../block/driver.ts'
import { OptionReader } from '../../../block/options.ts'
import { isPowerOfTwo } from '../../../bytes/range.ts'
import { invalid } from '../../../errors.ts'
import { createOptionInfo } from '../create-options.ts'

export interface Amendment {
  readonly version?: 2 | 3
  /** Bytes. */
  readonly size?: number
  readonly backingFile?: string
  readonly backingFormat?: string
  readonly lazyRefcounts?: boolean
  readonly refcountBits?: number
  readonly dataFile?: string
  readonly dataFileRaw?: boolean
  /** What is said of keyslots, under the names that the `luks` driver has for it. */
  readonly keyslots?: Readonly<Record<string, unknown>>
}

const asInCreation = [
  'backing_file',
  'backing_fmt',
  'compat',
  'data_file',
  'data_file_raw',
  'encrypt.iter-time',
  'lazy_refcounts',
  'refcount_bits',
  'size',
]

export const amendOptionInfo: readonly CreateOptionInfo[] = [
  ...createOptionInfo.filter(({ name }) => asInCreation.includes(name)),
  {
    name: 'encrypt.keyslot',
    type: 'num',
    description: 'Select a single keyslot to modify explicitly',
  },
  {
    name: 'encrypt.new-secret',
    type: 'str',
    description: 'New secret to set in the matching keyslots. Empty string to erase',
  },
  {
    name: 'encrypt.old-secret',
    type: 'str',
    description: 'Select all keyslots that match this password',
  },
  {
    name: 'encrypt.state',
    type: 'str',
    description: 'Select new state of affected keyslots (active/inactive)',
  },
]

const keyslotPrefix = 'encrypt.'

/** Values may be typed or text. Throws `INVALID_ARGUMENT` for what no image can have. */
export function parseAmendment(options: Readonly<Record<string, unknown>>): Amendment {
  const own: Record<string, unknown> = {}
  const keyslots: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(options)) {
    if (name.startsWith(keyslotPrefix)) keyslots[name.slice(keyslotPrefix.length)] = value
    else own[name] = value
  }
  const reader = new OptionReader(own)
  const amendment: Amendment = {
    version: parseVersion(reader.string('compat')),
    size: parseSize(reader),
    backingFile: reader.string('backing_file'),
    backingFormat: reader.string('backing_fmt'),
    lazyRefcounts: reader.boolean('lazy_refcounts'),
    refcountBits: parseRefcountBits(reader),
    dataFile: reader.string('data_file'),
    dataFileRaw: reader.boolean('data_file_raw'),
    keyslots: Object.keys(keyslots).length > 0 ? keyslots : undefined,
  }
  reader.finish()
  return amendment
}

/** 0 stands for no wish, as QEMU has it. What is too large for a format, the format says. */
function parseSize(reader: OptionReader): number | undefined {
  const given = reader.take('size')
  const size = typeof given === 'number' ? given : new OptionReader({ size: given }).bytes('size')
  return size === 0 ? undefined : size
}

function parseVersion(compat: string | undefined): 2 | 3 | undefined {
  if (compat === undefined) return undefined
  if (compat === '0.10' || compat === 'v2') return 2
  if (compat === '1.1' || compat === 'v3') return 3
  throw invalid(`Unknown compatibility level ${compat}`)
}

function parseRefcountBits(reader: OptionReader): number | undefined {
  const bits = reader.integer('refcount_bits')
  if (bits === undefined || (isPowerOfTwo(bits) && bits <= 64)) return bits
  throw invalid('Refcount width must be a power of two and may not exceed 64 bits')
}
