/** AES, done by OpenSSL. One object serves all calls: setting up a new one costs more than 512 bytes. */
import { type Cipheriv, createCipheriv, createDecipheriv, type Decipheriv } from 'node:crypto'
import type { BlockCipher } from './block-cipher.ts'

export class AesCipher implements BlockCipher {
  readonly blockSize = 16
  readonly #encryption: Cipheriv
  readonly #decryption: Decipheriv

  constructor(key: Uint8Array) {
    const mode = `aes-${key.length * 8}-ecb`
    this.#encryption = createCipheriv(mode, key, null).setAutoPadding(false)
    this.#decryption = createDecipheriv(mode, key, null).setAutoPadding(false)
  }

  encrypt(source: Uint8Array): Uint8Array {
    return this.#encryption.update(source)
  }

  decrypt(source: Uint8Array): Uint8Array {
    return this.#decryption.update(source)
  }
}
