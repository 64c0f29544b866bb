/** A new LUKS header with one password in slot 0. */
import { KeySlots, type NewHeader, newHeader } from '../../crypto/luks/key-slots.ts'
import type { HeaderStorage } from '../../crypto/luks/storage.ts'

export interface NewVolume {
  /** Bytes that header and key material take, in front of the disk. */
  readonly payloadOffset: number
  /** Writes it; its key is forgotten then. Called once. */
  write(storage: HeaderStorage): Promise<void>
}

export async function newVolume(options: NewHeader, password: Uint8Array): Promise<NewVolume> {
  const { header, key } = await newHeader(options)
  return {
    payloadOffset: header.payloadOffset,
    async write(storage) {
      try {
        await new KeySlots(header, storage).fill(0, key, password, options.iterTimeMs)
      } finally {
        key.fill(0)
      }
    },
  }
}
