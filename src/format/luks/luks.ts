/**
 * Driver `luks`: a whole disk, enciphered, behind a LUKS header of version 1; as `cryptsetup` and
 * QEMU make and open them. Everything that ciphers is loaded when an image is opened or made.
 */
import type { BlockDriver, CreateOptionInfo, NodeReference } from '../../block/driver.ts'
import type { Preallocation } from '../../block/layer.ts'
import { missing, OptionReader } from '../../block/options.ts'
import { everyPermission, permissionSet } from '../../block/permission.ts'
import { findSecret } from '../../block/secrets.ts'
import { alignUp } from '../../bytes/range.ts'
import type { NewHeader } from '../../crypto/luks/key-slots.ts'
import { isLuks } from '../../crypto/luks/layout.ts'
import { payloadOffsetOf } from '../../crypto/luks/slot-layout.ts'
import { BlockError, invalid } from '../../errors.ts'
import { fileStorage } from './file-storage.ts'
import { parseLuksOptions } from './luks-options.ts'

interface LuksOptions {
  readonly file: NodeReference
  readonly keySecret?: string
}

interface LuksCreateOptions extends NewHeader {
  /** Bytes of the disk. */
  readonly size: number
  readonly keySecret?: string
  readonly preallocation: Preallocation
}

/** QEMU counts disks in sectors. */
const sectorSize = 512

const createOptionInfo: readonly CreateOptionInfo[] = [
  { name: 'cipher-alg', type: 'str', description: 'Name of encryption cipher algorithm' },
  { name: 'cipher-mode', type: 'str', description: 'Name of encryption cipher mode' },
  { name: 'hash-alg', type: 'str', description: 'Name of encryption hash algorithm' },
  { name: 'iter-time', type: 'num', description: 'Time to spend in PBKDF in milliseconds' },
  { name: 'ivgen-alg', type: 'str', description: 'Name of IV generator algorithm' },
  { name: 'ivgen-hash-alg', type: 'str', description: 'Name of IV generator hash algorithm' },
  {
    name: 'key-secret',
    type: 'str',
    description: 'ID of the secret that provides the keyslot passphrase',
  },
  { name: 'size', type: 'size', description: 'Virtual disk size' },
]

const amendOptionInfo: readonly CreateOptionInfo[] = [
  { name: 'iter-time', type: 'num', description: 'Time to spend in PBKDF in milliseconds' },
  { name: 'keyslot', type: 'num', description: 'Select a single keyslot to modify explicitly' },
  {
    name: 'new-secret',
    type: 'str',
    description: 'New secret to set in the matching keyslots. Empty string to erase',
  },
  {
    name: 'old-secret',
    type: 'str',
    description: 'Select all keyslots that match this password',
  },
  {
    name: 'state',
    type: 'str',
    description: 'Select new state of affected keyslots (active/inactive)',
  },
]

export const luks: BlockDriver<LuksOptions, LuksCreateOptions> = {
  name: 'luks',
  kind: 'format',
  naming: { strong: ['key-secret'] },
  opening: { uses: permissionSet('consistentRead'), shares: everyPermission },
  probe: isLuks,
  amendOptions: amendOptionInfo,
  parse(options) {
    const reader = new OptionReader(options)
    const file = reader.take('file') as NodeReference | undefined
    const keySecret = reader.string('key-secret')
    reader.finish()
    if (file === undefined) throw missing('file')
    return { file, keySecret }
  },
  async open({ file: reference, keySecret }, context) {
    const file = await context.child('file', reference)
    const { LuksLayer } = await import('./luks-layer.ts')
    const password = context.flags.noIo ? undefined : await passwordOf(keySecret, context.secrets)
    return await LuksLayer.open(file, password, {
      keySecret,
      secrets: context.secrets,
      readOnly: context.flags.readOnly,
    })
  },
  creator: {
    options: createOptionInfo,
    // Space is taken for the disk, of whose size the storage knows nothing.
    takesOver: ['preallocation'],
    parse(options) {
      const reader = new OptionReader(options)
      const size = reader.bytes('size')
      if (size === undefined) throw missing('size')
      const keySecret = reader.string('key-secret')
      const preallocation = parsePreallocation(reader)
      const header = parseLuksOptions(reader, '')
      reader.finish()
      return { size: alignUp(size, sectorSize), keySecret, preallocation, ...header }
    },
    async measure(options, { size: asked }) {
      const reader = new OptionReader(options)
      const keySecret = reader.string('key-secret')
      const { spec } = parseLuksOptions(reader, '')
      if (keySecret === undefined) throw keyRequired()
      const required = payloadOffsetOf(spec) + asked
      return { required, fullyAllocated: required }
    },
    async create({ size, keySecret, preallocation, ...header }, { file, secrets, signal }) {
      if (!file) throw new TypeError('a LUKS image is created in a file')
      const password = await passwordOf(keySecret, secrets)
      const { newVolume } = await import('./new-volume.ts')
      const volume = await newVolume(header, password)
      signal.throwIfAborted()
      const length = volume.payloadOffset + size
      if (file.capabilities.resize) {
        await file.truncate(0, { signal })
        await file.truncate(length, { signal, preallocation })
      } else if (file.sizeIsGiven) {
        await file.truncate(length, { signal })
      } else if (file.size < length) {
        throw new BlockError('NO_SPACE', `${length} bytes do not fit into ${file.size}`, {
          errno: 'ENOSPC',
        })
      }
      await volume.write(fileStorage(file))
    },
  },
}

/** There is no metadata to allocate but the header, which is always there. */
function parsePreallocation(reader: OptionReader): Preallocation {
  const mode = reader.string('preallocation') ?? 'off'
  if (mode === 'falloc' || mode === 'full') return mode
  if (mode === 'off' || mode === 'metadata') return 'off'
  throw invalid(`invalid parameter value: ${mode}`)
}

async function passwordOf(
  keySecret: string | undefined,
  secrets: Parameters<typeof findSecret>[0],
): Promise<Uint8Array> {
  if (keySecret !== undefined) return await findSecret(secrets, keySecret)
  throw keyRequired()
}

function keyRequired(): BlockError {
  return invalid("Parameter 'key-secret' is required for cipher")
}
