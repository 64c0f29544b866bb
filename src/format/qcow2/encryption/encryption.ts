/** An encrypted image: which kind it is, its key, and its key slots. */

import type { AmendOptions } from '../../../block/abilities.ts'
import type { OpenContext, SecretSource } from '../../../block/driver.ts'
import { findSecret } from '../../../block/secrets.ts'
import type { SectorCipher } from '../../../crypto/sector-cipher.ts'
import { BlockError, invalid } from '../../../errors.ts'
import type { Faults } from '../faults.ts'
import type { Qcow2Image } from '../image.ts'
import { cryptMethod, headerStorage, readPlace } from './place.ts'
import { EncryptedSpace } from './space.ts'

/** `encrypt` of a node's options. */
export interface EncryptOptions {
  readonly format?: string
  readonly keySecret?: string
}

export interface ImageEncryption {
  /** `ImageInfoSpecificQCow2Encryption` of QMP. */
  facts(): Readonly<Record<string, unknown>>
  /** Changes key slots; options are named as those of the `luks` driver. */
  amend(options: AmendOptions): Promise<void>
}

/**
 * Opens what protects the image, and has its data deciphered from then on. `context.flags.noIo`:
 * only facts are wanted, for which it takes no key.
 */
export async function openEncryption(
  image: Qcow2Image,
  options: EncryptOptions,
  context: Pick<OpenContext, 'secrets'> & { readonly flags: { readonly noIo?: boolean } },
): Promise<void> {
  const { faults } = image
  const { current } = image.header
  const place = readPlace(current, faults)
  const format = place ? 'luks' : current.cryptMethod === cryptMethod.aes ? 'aes' : undefined
  checkFormat(format, options.format, faults)
  if (format === undefined) return
  const secret = context.flags.noIo ? undefined : await keyOf(options, context.secrets)
  if (!place) {
    if (secret) image.space = new EncryptedSpace(image.space, await aesCipher(secret), 'guest')
    image.encryption = legacyAes
    return
  }
  const storage = headerStorage(image.file, place, faults)
  const { openLuks } = await import('../../luks/volume.ts')
  const volume = await openLuks(storage, secret)
  const { cipher } = volume
  if (cipher) image.space = new EncryptedSpace(image.space, cipher, 'host')
  image.encryption = {
    facts: () => withFormat(volume.facts()),
    amend: (amendment) => volume.amend(amendment, options.keySecret, context.secrets),
  }
}

const legacyAes: ImageEncryption = {
  facts: () => ({ format: 'aes' }),
  async amend() {
    throw new BlockError('UNSUPPORTED', 'Only LUKS encryption options can be amended', {
      errno: 'ENOTSUP',
    })
  },
}

function checkFormat(found: string | undefined, wanted: string | undefined, faults: Faults): void {
  if (wanted === undefined || wanted === found) return
  throw faults.refuse(
    'INVALID_ARGUMENT',
    found === undefined
      ? `No encryption in image header, but options specified format '${wanted}'`
      : `Header reported '${found}' encryption format but options specify '${wanted}'`,
  )
}

async function keyOf(
  { keySecret }: EncryptOptions,
  secrets: SecretSource | undefined,
): Promise<Uint8Array> {
  if (keySecret !== undefined) return await findSecret(secrets, keySecret)
  throw keyRequired()
}

export function keyRequired(): BlockError {
  return invalid("Parameter 'encrypt.key-secret' is required for cipher")
}

/** The password itself is the key: filled up with zeroes, or cut off. */
async function aesCipher(password: Uint8Array): Promise<SectorCipher> {
  const [{ diskCipher }, { findInFamily }] = await Promise.all([
    import('../../../crypto/disk-cipher.ts'),
    import('../../../crypto/cipher-spec.ts'),
  ])
  const algorithm = findInFamily('aes', 16)
  if (!algorithm) throw new TypeError('there is no AES')
  const key = new Uint8Array(algorithm.keyLength)
  key.set(password.subarray(0, key.length))
  return diskCipher({ algorithm, mode: 'cbc', ivGenerator: 'plain64' }, key)
}

/** QEMU shows the format between the UUID and the mode. */
function withFormat(facts: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(facts).flatMap(([name, value]) =>
      name === 'cipher-mode'
        ? [
            ['format', 'luks'],
            [name, value],
          ]
        : [[name, value]],
    ),
  )
}
