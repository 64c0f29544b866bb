/** Making images: `blockdev-create`, whose work is a job. */
import type { BlockDriver, ImageCreator, NodeOptions } from '../../block/driver.ts'
import type { BlockLayer } from '../../block/layer.ts'
import { allPermissions, type Permission } from '../../block/permission.ts'
import { BlockError, invalid } from '../../errors.ts'
import type { JobControl } from '../../job/work.ts'
import { command } from '../command.ts'
import { blockdevDriver, blockdevReference } from '../schema/blockdev-options.ts'
import {
  bool,
  enumeration,
  int,
  object,
  optional,
  required,
  size,
  str,
  union,
} from '../schema/types.ts'
import type { StorageDaemon } from '../storage-daemon.ts'

const preallocation = optional(
  enumeration('PreallocMode', ['off', 'metadata', 'falloc', 'full']),
  'How much of the image to allocate at once.',
)

const fileOptions = object('BlockdevCreateOptionsFile', {
  filename: required(str, 'Path of the new file.'),
  size: required(size, 'Bytes.'),
  preallocation,
  nocow: optional(bool, 'Switch copy-on-write of the file system off (Btrfs).'),
  'extent-size-hint': optional(size, 'Bytes by which the file system is asked to allocate.'),
})

const cipherAlgorithm = enumeration('QCryptoCipherAlgorithm', [
  'aes-128',
  'aes-192',
  'aes-256',
  'des',
  '3des',
  'cast5-128',
  'serpent-128',
  'serpent-192',
  'serpent-256',
  'twofish-128',
  'twofish-192',
  'twofish-256',
])
const cipherMode = enumeration('QCryptoCipherMode', ['ecb', 'cbc', 'xts', 'ctr'])
const ivGenerator = enumeration('QCryptoIVGenAlgorithm', ['plain', 'plain64', 'essiv'])
const hashAlgorithm = enumeration('QCryptoHashAlgorithm', [
  'md5',
  'sha1',
  'sha224',
  'sha256',
  'sha384',
  'sha512',
  'ripemd160',
])

const luksParts = {
  'key-secret': optional(str, 'Id of the `secret` with the password; required.'),
  'cipher-alg': optional(cipherAlgorithm, '`aes-256` unless given.'),
  'cipher-mode': optional(cipherMode, '`xts` unless given.'),
  'ivgen-alg': optional(ivGenerator, '`plain64` unless given.'),
  'ivgen-hash-alg': optional(hashAlgorithm, 'For `essiv`; `sha256` unless given.'),
  'hash-alg': optional(hashAlgorithm, '`sha256` unless given.'),
  'iter-time': optional(int, 'Milliseconds that one try of a password takes; 2000 unless given.'),
}

const luksOptions = object('BlockdevCreateOptionsLUKS', {
  file: required(blockdevReference, 'The node to write the image into; its size is changed.'),
  size: required(size, 'Bytes that a guest will see.'),
  preallocation,
  ...luksParts,
})

const encryptOptions = union(
  'QCryptoBlockCreateOptions',
  { format: required(enumeration('QCryptoBlockFormat', ['qcow', 'luks']), 'Kind.') },
  'format',
  () => ({
    qcow: object('QCryptoBlockOptionsQCow', {
      'key-secret': optional(str, 'Id of the `secret` with the key; required.'),
    }),
    luks: object('QCryptoBlockCreateOptionsLUKS', luksParts),
  }),
)

const qcow2Options = object('BlockdevCreateOptionsQcow2', {
  file: required(blockdevReference, 'The node to write the image into; its size is changed.'),
  size: required(size, 'Bytes that a guest will see.'),
  version: optional(enumeration('BlockdevQcow2Version', ['v2', 'v3']), '`v3` unless given.'),
  'backing-file': optional(str, 'Name of the backing file to record.'),
  'backing-fmt': optional(blockdevDriver, 'Its format.'),
  'cluster-size': optional(size, 'Bytes; 64 KiB unless given.'),
  preallocation,
  'lazy-refcounts': optional(bool, 'Whether refcounts may be updated late.'),
  'refcount-bits': optional(int, 'Width of refcounts.'),
  'compression-type': optional(enumeration('Qcow2CompressionType', ['zlib', 'zstd']), 'How.'),
  'extended-l2': optional(bool, 'Whether clusters have subclusters.'),
  'data-file': optional(
    blockdevReference,
    'The node that the data goes to, apart from the tables.',
  ),
  'data-file-raw': optional(bool, 'Whether the data file is to be the disk by itself.'),
  encrypt: optional(encryptOptions, 'How to encrypt the image.'),
})

const createOptions = union(
  'BlockdevCreateOptions',
  {
    driver: required(blockdevDriver, 'What to make; only `file`, `luks` and `qcow2` can be made.'),
  },
  'driver',
  () => ({ file: fileOptions, luks: luksOptions, qcow2: qcow2Options }),
)

/** As the creators, which are those of `-o`, call the members. */
const creatorNames: Readonly<Record<string, string>> = {
  'extent-size-hint': 'extent_size_hint',
  'backing-file': 'backing_file',
  'backing-fmt': 'backing_fmt',
  'cluster-size': 'cluster_size',
  'lazy-refcounts': 'lazy_refcounts',
  'refcount-bits': 'refcount_bits',
  'compression-type': 'compression_type',
  'extended-l2': 'extended_l2',
  'data-file-raw': 'data_file_raw',
  version: 'compat',
}
const compatibility: Readonly<Record<string, string>> = { v2: '0.10', v3: '1.1' }

type Reference = string | NodeOptions
type Members = Readonly<Record<string, unknown>> & {
  readonly file?: Reference
  readonly 'data-file'?: Reference
}

export const createCommands = [
  command({
    name: 'blockdev-create',
    topic: 'Block nodes',
    doc:
      'Makes an image: a job does it, which stays listed until `job-dismiss`, with `error` when ' +
      'it failed. A format is written into a node that exists or is opened for it.',
    args: object('BlockdevCreateArg', {
      'job-id': required(str, 'Id of the job.'),
      options: required(createOptions, 'What to make.'),
    }),
    run({ 'job-id': id, options }, { daemon }) {
      const { driver: name, ...members } = options
      const driver = daemon.graph.drivers.find((each) => each.name === name)
      const { creator } = driver ?? {}
      if (!driver || !creator || !['file', 'luks', 'qcow2'].includes(name)) {
        throw new BlockError('UNSUPPORTED', 'Driver does not support blockdev-create', {
          errno: 'ENOTSUP',
        })
      }
      daemon.jobs.start(
        { id, type: 'create', manualDismiss: true },
        {
          run: (control) => create(daemon, driver, creator, members, control),
        },
      )
    },
  }),
]

async function create(
  daemon: StorageDaemon,
  driver: BlockDriver,
  creator: ImageCreator<unknown>,
  { file, 'data-file': data, ...members }: Members,
  control: JobControl,
): Promise<void> {
  control.setTotal(1)
  const options = forCreator(members)
  const write = async (dataFile?: BlockLayer) => {
    const parse = () => {
      if (driver.name === 'qcow2') checkSectors(options.size as number)
      return creator.parse(dataFile ? { ...options, data_file: nameOf(dataFile) } : options)
    }
    if (driver.kind === 'protocol') return await creator.create(parse(), control)
    await withStorage(daemon, file as Reference, parse, (storage, parsed) =>
      creator.create(parsed, {
        file: storage,
        dataFile,
        signal: control.signal,
        secrets: daemon.graph.secrets,
      }),
    )
  }
  try {
    // What is stored in it lies at its place: the image itself is written somewhere else.
    const fixed = allPermissions.filter((each) => each !== 'resize')
    await (data === undefined ? write() : withStorage(daemon, data, () => {}, write, fixed))
  } finally {
    control.advance(1)
  }
}

/** Here, unlike for `qemu-img create`, the size is not rounded up. */
function checkSectors(size: number): void {
  if (size % 512 === 0) return
  throw invalid('Image size must be a multiple of 512 bytes')
}

/** What the image records of its data file. */
function nameOf({ image }: BlockLayer): string {
  if (image?.filename !== undefined) return image.filename
  throw invalid('A data file needs a file name to be recorded')
}

function forCreator({
  encrypt,
  ...members
}: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const entries = Object.entries(members).map(([name, value]) => [
    creatorNames[name] ?? name,
    name === 'version' ? compatibility[value as string] : value,
  ])
  return { ...Object.fromEntries(entries), ...flatEncryption(encrypt) }
}

/** QMP calls the older AES `qcow`. */
function flatEncryption(encrypt: unknown): Record<string, unknown> {
  const entries = Object.entries(encrypt ?? {}).map(([name, value]) => [
    `encrypt.${name}`,
    name === 'format' && value === 'qcow' ? 'aes' : value,
  ])
  return Object.fromEntries(entries)
}

/**
 * Has `work` write to a node that exists or is opened for it, and flushes that. In between, with
 * the node there and not in use yet, `prepare` checks what is wanted.
 */
async function withStorage<T>(
  daemon: StorageDaemon,
  reference: Reference,
  prepare: () => T,
  work: (storage: BlockLayer, prepared: T) => Promise<void>,
  shares: readonly Permission[] = allPermissions,
): Promise<void> {
  const named = typeof reference === 'string'
  const node = named ? daemon.graph.node(reference) : await daemon.graph.open(reference)
  try {
    const prepared = prepare()
    await using storage = daemon.graph.attach(node, {
      description: 'an unnamed block device',
      uses: ['consistentRead', 'write', 'resize'],
      shares,
    })
    await work(storage, prepared)
    await storage.flush()
  } finally {
    if (!named) await daemon.graph.remove(node.name)
  }
}
