/** Where a qcow2 image keeps its LUKS header: header extension 0x0537be77. */

import { plainIo } from '../../../block/layer.ts'
import { isAligned } from '../../../bytes/range.ts'
import { struct, u64 } from '../../../bytes/struct.ts'
import type { HeaderStorage } from '../../../crypto/luks/storage.ts'
import { extensionType, type HeaderExtension } from '../extensions.ts'
import type { Faults } from '../faults.ts'
import type { Header } from '../header.ts'
import type { ImageFile } from '../image-file.ts'

/** Values of `cryptMethod`. */
export const cryptMethod = { none: 0, aes: 1, luks: 2 } as const

export interface CryptoHeaderPlace {
  /** A cluster of the file. */
  readonly offset: number
  /** Bytes, key material included. */
  readonly length: number
}

const placeStruct = struct('big', { offset: u64, length: u64 })

/** Undefined where the image is not encrypted with LUKS. Throws in QEMU's words. */
export function readPlace(header: Header, faults: Faults): CryptoHeaderPlace | undefined {
  const extension = header.extensions.find(({ type }) => type === extensionType.encryption)
  const method = header.cryptMethod
  const refuse = (message: string) => faults.refuse('CORRUPT_IMAGE', message, methodOffset)
  if (!extension) {
    if (method !== cryptMethod.luks) return undefined
    throw refuse(`Missing CRYPTO header for crypt method ${method}`)
  }
  if (method !== cryptMethod.luks) {
    throw refuse('CRYPTO header extension only expected with LUKS encryption method')
  }
  const { data } = extension
  if (data.length !== placeStruct.size) {
    throw refuse(
      `CRYPTO header extension size ${data.length}, but expected size ${placeStruct.size}`,
    )
  }
  const place = placeStruct.decode(data)
  const clusterSize = 2 ** header.clusterBits
  if (isAligned(place.offset, clusterSize) && place.offset >= clusterSize) return place
  throw refuse(
    `Encryption header offset '${place.offset}' is not a multiple of cluster size '${clusterSize}'`,
  )
}

const methodOffset = 32

export function placeExtension(place: CryptoHeaderPlace): HeaderExtension {
  return { type: extensionType.encryption, data: placeStruct.encode({ ...place }) }
}

/** The clusters of the header, and nothing behind them. */
export function headerStorage(
  file: ImageFile,
  place: CryptoHeaderPlace,
  faults: Faults,
): HeaderStorage {
  const check = (offset: number, length: number) => {
    if (offset + length <= place.length) return
    throw faults.refuse('CORRUPT_IMAGE', 'Request for data outside of extension header', offset)
  }
  return {
    async read(offset, target) {
      check(offset, target.length)
      await file.read(place.offset + offset, target, plainIo)
    },
    async write(offset, source) {
      check(offset, source.length)
      await file.write(place.offset + offset, source)
    },
    flush: () => file.flush(),
  }
}
