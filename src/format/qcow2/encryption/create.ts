/** Encryption of a new image: its options, and what it adds to header and file. */
import type { SecretSource } from '../../../block/driver.ts'
import type { OptionReader } from '../../../block/options.ts'
import { findSecret } from '../../../block/secrets.ts'
import type { NewHeader } from '../../../crypto/luks/key-slots.ts'
import type { HeaderStorage } from '../../../crypto/luks/storage.ts'
import { invalid } from '../../../errors.ts'
import { luksOptionNames, parseLuksOptions } from '../../luks/luks-options.ts'
import { keyRequired } from './encryption.ts'
import { cryptMethod } from './place.ts'

export interface EncryptionOptions {
  readonly keySecret?: string
  /** Undefined: the older AES. */
  readonly luks?: NewHeader
}

export interface NewEncryption {
  readonly method: number
  /** Bytes of the LUKS header; 0 for none. */
  readonly length: number
  /** Writes it. */
  write(storage: HeaderStorage): Promise<void>
}

const prefix = 'encrypt.'
const oldName = 'encryption'

/** The older `encryption=on` says the same as `encrypt.format=aes`. */
export function parseEncryptionFormat(reader: OptionReader): string | undefined {
  const old = reader.boolean(oldName) ?? false
  const named = reader.string(`${prefix}format`)
  if (!old) return named
  if (named === undefined) return 'aes'
  throw invalid(`'${prefix}format' and its alias '${oldName}' can't be used at the same time`)
}

/** Takes all others of `encrypt.*`. */
export function parseEncryption(
  reader: OptionReader,
  format: string | undefined,
): EncryptionOptions | undefined {
  const keySecret = reader.string(`${prefix}key-secret`)
  if (format === 'luks') return { keySecret, luks: parseLuksOptions(reader, prefix) }
  const other = luksOptionNames.find((name) => reader.has(prefix + name))
  if (format === undefined) {
    if (keySecret === undefined && other === undefined) return undefined
    throw invalid(`Parameter '${prefix}format' is missing`)
  }
  if (format !== 'aes') throw invalid(`Parameter 'format' does not accept value '${format}'`)
  if (other !== undefined) throw invalid(`Parameter '${prefix}${other}' is unexpected`)
  return { keySecret }
}

/** Makes the key. Nothing is written yet. */
export async function prepareEncryption(
  options: EncryptionOptions | undefined,
  secrets: SecretSource | undefined,
): Promise<NewEncryption | undefined> {
  if (!options) return undefined
  const { keySecret, luks } = options
  if (keySecret === undefined) throw keyRequired()
  const password = await findSecret(secrets, keySecret)
  if (!luks) return { method: cryptMethod.aes, length: 0, write: async () => {} }
  const { newVolume } = await import('../../luks/new-volume.ts')
  const volume = await newVolume(luks, password)
  return {
    method: cryptMethod.luks,
    length: volume.payloadOffset,
    write: (storage) => volume.write(storage),
  }
}
