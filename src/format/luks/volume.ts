/** An open LUKS header, wherever it lies: what it says, its data's cipher, its key slots. */

import type { AmendOptions } from '../../block/abilities.ts'
import type { SecretSource } from '../../block/driver.ts'
import { diskCipher } from '../../crypto/disk-cipher.ts'
import { KeySlots } from '../../crypto/luks/key-slots.ts'
import { stripeCount } from '../../crypto/luks/layout.ts'
import type { HeaderStorage } from '../../crypto/luks/storage.ts'
import type { SectorCipher } from '../../crypto/sector-cipher.ts'
import { amendKeys } from './amend-keys.ts'

export interface LuksVolume {
  /** Absent where no password was given. */
  readonly cipher?: SectorCipher
  /** Bytes from the beginning of the header to the disk, where that lies behind it. */
  readonly payloadOffset: number
  /** `ImageInfoSpecificLUKS` of QMP. */
  facts(): Readonly<Record<string, unknown>>
  /** `keySecret` names what opened the volume. */
  amend(
    options: AmendOptions,
    keySecret: string | undefined,
    secrets: SecretSource | undefined,
  ): Promise<void>
}

/** Throws `PERMISSION` when the password opens no slot. */
export async function openLuks(
  storage: HeaderStorage,
  password: Uint8Array | undefined,
): Promise<LuksVolume> {
  const keys = await KeySlots.open(storage)
  return {
    cipher: password && (await cipherOf(keys, password)),
    payloadOffset: keys.header.payloadOffset,
    facts: () => factsOf(keys),
    amend: (options, keySecret, secrets) => amendKeys(keys, options, keySecret, secrets),
  }
}

async function cipherOf(keys: KeySlots, password: Uint8Array): Promise<SectorCipher> {
  const key = await keys.unlock(password)
  try {
    return diskCipher(keys.header.spec, key)
  } finally {
    key.fill(0)
  }
}

/** In the order in which QEMU shows them. */
function factsOf({ header }: KeySlots): Record<string, unknown> {
  const { spec } = header
  return {
    'ivgen-alg': spec.ivGenerator,
    'hash-alg': header.hash,
    'cipher-alg': spec.algorithm.name,
    uuid: header.uuid,
    ...(spec.ivHash ? { 'ivgen-hash-alg': spec.ivHash } : {}),
    'cipher-mode': spec.mode,
    slots: header.slots.map(({ active, iterations, offset }) =>
      active
        ? { active, iters: iterations, 'key-offset': offset, stripes: stripeCount }
        : { active, 'key-offset': offset },
    ),
    'payload-offset': header.payloadOffset,
    'master-key-iters': header.digestIterations,
  }
}
