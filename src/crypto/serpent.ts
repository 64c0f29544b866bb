/**
 * Serpent, after "Serpent: A Proposal for the Advanced Encryption Standard" (Anderson, Biham,
 * Knudsen, 1998), in the bitslice form of section 6. All words are little-endian, as are the
 * machines that Node runs on.
 */
import type { BlockCipher } from './block-cipher.ts'
import { inverses, substitutions } from './serpent-boxes.ts'
import { bytesOf, resultWords, rotateLeft, wordsOf } from './words.ts'

const rounds = 32
/** The fractional part of the golden ratio. */
const phi = 0x9e3779b9

export class SerpentCipher implements BlockCipher {
  readonly blockSize = 16
  readonly #subkeys: Int32Array
  readonly #state = new Int32Array(4)

  constructor(key: Uint8Array) {
    this.#subkeys = subkeysOf(key)
  }

  encrypt(source: Uint8Array): Uint8Array {
    const input = wordsOf(source)
    const output = resultWords(source.length)
    const state = this.#state
    for (let at = 0; at < input.length; at += 4) {
      for (let word = 0; word < 4; word++) state[word] = input[at + word]
      for (let round = 0; round < rounds - 1; round++) {
        this.#addKey(round)
        substitutions[round & 7](state)
        mix(state)
      }
      this.#addKey(rounds - 1)
      substitutions[7](state)
      this.#addKey(rounds)
      for (let word = 0; word < 4; word++) output[at + word] = state[word]
    }
    return bytesOf(output, source.length)
  }

  decrypt(source: Uint8Array): Uint8Array {
    const input = wordsOf(source)
    const output = resultWords(source.length)
    const state = this.#state
    for (let at = 0; at < input.length; at += 4) {
      for (let word = 0; word < 4; word++) state[word] = input[at + word]
      this.#addKey(rounds)
      inverses[7](state)
      this.#addKey(rounds - 1)
      for (let round = rounds - 2; round >= 0; round--) {
        unmix(state)
        inverses[round & 7](state)
        this.#addKey(round)
      }
      for (let word = 0; word < 4; word++) output[at + word] = state[word]
    }
    return bytesOf(output, source.length)
  }

  #addKey(round: number): void {
    const state = this.#state
    const keys = this.#subkeys
    const at = 4 * round
    state[0] ^= keys[at]
    state[1] ^= keys[at + 1]
    state[2] ^= keys[at + 2]
    state[3] ^= keys[at + 3]
  }
}

/** The linear transformation of section 3. */
function mix(x: Int32Array): void {
  const a = rotateLeft(x[0], 13)
  const c = rotateLeft(x[2], 3)
  const b = rotateLeft(x[1] ^ a ^ c, 1)
  const d = rotateLeft(x[3] ^ c ^ (a << 3), 7)
  x[0] = rotateLeft(a ^ b ^ d, 5)
  x[1] = b
  x[2] = rotateLeft(c ^ d ^ (b << 7), 22)
  x[3] = d
}

function unmix(x: Int32Array): void {
  const b = x[1]
  const d = x[3]
  const c = rotateLeft(x[2], 10) ^ d ^ (b << 7)
  const a = rotateLeft(x[0], 27) ^ b ^ d
  x[3] = rotateLeft(d, 25) ^ c ^ (a << 3)
  x[1] = rotateLeft(b, 31) ^ a ^ c
  x[2] = rotateLeft(c, 29)
  x[0] = rotateLeft(a, 19)
}

/** Section 4. Keys of less than 256 bits are filled up with a one and zeroes. */
function subkeysOf(key: Uint8Array): Int32Array {
  const padded = new Uint8Array(32)
  padded.set(key)
  if (key.length < padded.length) padded[key.length] = 1
  const words = [...wordsOf(padded)]
  const prekeys = new Int32Array(4 * (rounds + 1))
  for (let index = 0; index < prekeys.length; index++) {
    const [first, , , fourth, , sixth, , eighth] = words
    const next = rotateLeft(first ^ fourth ^ sixth ^ eighth ^ phi ^ index, 11)
    words.shift()
    words.push(next)
    prekeys[index] = next
  }
  for (let round = 0; round <= rounds; round++) {
    substitutions[(rounds + 3 - round) & 7](prekeys.subarray(4 * round, 4 * round + 4))
  }
  return prekeys
}
