/** The disk behind a LUKS header. */

import type { ImageAmend, ImageFacts } from '../../block/abilities.ts'
import { CipherLayer } from '../../block/cipher-layer.ts'
import type { SecretSource } from '../../block/driver.ts'
import type {
  BlockLayer,
  Capabilities,
  Completion,
  Io,
  Limits,
  WriteIo,
} from '../../block/layer.ts'
import type { ChildRole, Needs, Permission, Permissions } from '../../block/permission.ts'
import { BlockError } from '../../errors.ts'
import { fileStorage } from './file-storage.ts'
import { type LuksVolume, openLuks } from './volume.ts'

/** What the ciphers work on at the least. */
const sectorSize = 512

/** More in one request would keep everything else waiting for the ciphers. */
const maxTransfer = 2 * 1024 * 1024

export interface LuksSettings {
  readonly keySecret?: string
  readonly secrets?: SecretSource
  readonly readOnly: boolean
}

export class LuksLayer extends CipherLayer {
  readonly amend?: ImageAmend
  readonly #volume: LuksVolume
  readonly #start: number

  private constructor(file: BlockLayer, volume: LuksVolume, settings: LuksSettings) {
    const { cipher = locked, payloadOffset } = volume
    super(file, cipher, -payloadOffset)
    this.#volume = volume
    this.#start = payloadOffset
    const { keySecret, secrets, readOnly } = settings
    if (!readOnly) {
      this.amend = { run: (options) => volume.amend(options, keySecret, secrets) }
    }
  }

  /** Without a password the disk can be looked at, but not read. */
  static async open(
    file: BlockLayer,
    password: Uint8Array | undefined,
    settings: LuksSettings,
  ): Promise<LuksLayer> {
    const volume = await openLuks(fileStorage(file), password)
    if (volume.payloadOffset > file.size) {
      throw new BlockError(
        'CORRUPT_IMAGE',
        `The disk would begin at ${volume.payloadOffset}, behind the end of the file`,
        { offset: volume.payloadOffset, errno: 'EIO' },
      )
    }
    return new LuksLayer(file, volume, settings)
  }

  override get size(): number {
    return this.next.size - this.#start
  }

  override get limits(): Limits {
    const { limits } = this.next
    const alignment = Math.max(sectorSize, limits.alignment)
    return {
      ...limits,
      alignment,
      zeroAlignment: alignment,
      discardAlignment: alignment,
      maxTransfer: Math.min(maxTransfer, limits.maxTransfer),
    }
  }

  override get capabilities(): Capabilities {
    return { ...super.capabilities, backing: false }
  }

  override get image(): ImageFacts {
    const below = this.next.image
    return {
      filename: below?.filename,
      allocatedSize: below?.allocatedSize?.bind(below),
      encrypted: true,
      specific: () => ({ type: 'luks', data: this.#volume.facts() }),
    }
  }

  /** Like a filter's, for the header is read once; whoever changes keys asks for more. */
  childPermissions(_role: ChildRole, { uses, shares }: Needs): Permissions {
    return { uses: new Set<Permission>([...uses, 'consistentRead']), shares }
  }

  override read(offset: number, target: Uint8Array, io: Io): Completion {
    return super.read(offset + this.#start, target, io)
  }

  override write(offset: number, source: Uint8Array, io: WriteIo): Completion {
    return super.write(offset + this.#start, source, io)
  }

  override truncate(size: number, io: Io): Completion {
    return this.next.truncate(size + this.#start, io)
  }
}

const refuse = (): never => {
  throw new BlockError('PERMISSION', 'the disk was opened without its key', { errno: 'EACCES' })
}
const locked = { encrypt: refuse, decrypt: refuse }
