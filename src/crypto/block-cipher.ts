/**
 * Block ciphers. Each works on many blocks at a time, every block by itself; `sector-cipher.ts`
 * makes modes of that.
 */
import { AesCipher } from './aes.ts'
import { Cast5Cipher } from './cast5.ts'
import type { CipherAlgorithm, CipherFamily } from './cipher-spec.ts'
import { SerpentCipher } from './serpent.ts'
import { TwofishCipher } from './twofish.ts'

export interface BlockCipher {
  /** Bytes. */
  readonly blockSize: number
  /**
   * Whole blocks, each enciphered by itself. The result may be memory that the next call on any
   * cipher overwrites; it is `source` itself only where that is such memory.
   */
  encrypt(source: Uint8Array): Uint8Array
  decrypt(source: Uint8Array): Uint8Array
}

const families: Record<CipherFamily, new (key: Uint8Array) => BlockCipher> = {
  aes: AesCipher,
  cast5: Cast5Cipher,
  serpent: SerpentCipher,
  twofish: TwofishCipher,
}

/** Keeps no reference to `key`, which is as long as the algorithm says. */
export function blockCipher({ family, keyLength }: CipherAlgorithm, key: Uint8Array): BlockCipher {
  if (key.length !== keyLength) throw new TypeError(`a key of ${key.length} bytes`)
  return new families[family](key)
}
