/**
 * CAST-128, which OpenSSL and QEMU call CAST5, after RFC 2144, with keys of 128 bits. Words have the
 * most significant byte first, other than on the machines that Node runs on. Its tables may give away
 * its key to others on the same processor's cache, like those of Twofish.
 */
import { viewOf } from '../bytes/view.ts'
import type { BlockCipher } from './block-cipher.ts'
import { boxes } from './cast5-boxes.ts'
import { bytesOf, resultWords, rotateLeft } from './words.ts'

const rounds = 16
const [s1, s2, s3, s4, s5, s6, s7, s8] = boxes

export class Cast5Cipher implements BlockCipher {
  readonly blockSize = 8
  /** Km1 to Km16. */
  readonly #masks: Int32Array
  /** Kr1 to Kr16. */
  readonly #rotations: Int32Array

  constructor(key: Uint8Array) {
    const subkeys = subkeysOf(key)
    this.#masks = subkeys.slice(0, rounds)
    this.#rotations = subkeys.slice(rounds).map((word) => word & 31)
  }

  encrypt(source: Uint8Array): Uint8Array {
    return this.#each(source, 0, 1)
  }

  decrypt(source: Uint8Array): Uint8Array {
    return this.#each(source, rounds - 1, -1)
  }

  /** Section 2.1; `step`: through the rounds. */
  #each(source: Uint8Array, first: number, step: 1 | -1): Uint8Array {
    const input = viewOf(source)
    const result = bytesOf(resultWords(source.length), source.length)
    const output = viewOf(result)
    for (let at = 0; at < source.length; at += 8) {
      let left = input.getInt32(at)
      let right = input.getInt32(at + 4)
      for (let count = 0, round = first; count < rounds; count++, round += step) {
        const next = left ^ this.#round(round, right)
        left = right
        right = next
      }
      output.setInt32(at, right)
      output.setInt32(at + 4, left)
    }
    return result
  }

  /** Section 2.2: f1, f2 and f3 in turn. */
  #round(round: number, data: number): number {
    const mask = this.#masks[round]
    const kind = round % 3
    const mixed = kind === 0 ? mask + data : kind === 1 ? mask ^ data : mask - data
    const word = rotateLeft(mixed | 0, this.#rotations[round])
    const a = s1[word >>> 24]
    const b = s2[(word >>> 16) & 255]
    const c = s3[(word >>> 8) & 255]
    const d = s4[word & 255]
    if (kind === 0) return ((a ^ b) - c + d) | 0
    if (kind === 1) return (a - b + c) ^ d
    return ((a + b) ^ c) - d
  }
}

/** What the four words of a new state, x or z, are made of: section 2.4. */
const steps = [
  { from: 0, by: [13, 15, 12, 14], box: s7, at: 8 },
  { from: 8, by: [0, 2, 1, 3], box: s8, at: 10 },
  { from: 12, by: [7, 6, 5, 4], box: s5, at: 9 },
  { from: 4, by: [10, 9, 11, 8], box: s6, at: 11 },
] as const
const backSteps = [
  { from: 8, by: [5, 7, 4, 6], box: s7, at: 0 },
  { from: 0, by: [0, 2, 1, 3], box: s8, at: 2 },
  { from: 4, by: [7, 6, 5, 4], box: s5, at: 1 },
  { from: 12, by: [10, 9, 11, 8], box: s6, at: 3 },
] as const

/** The bytes that four subkeys in a row are made of: by S5, S6, S7, S8, and by S5 to S8 in turn. */
const keysOfZ = [
  [8, 9, 7, 6, 2],
  [10, 11, 5, 4, 6],
  [12, 13, 3, 2, 9],
  [14, 15, 1, 0, 12],
]
const keysOfX = [
  [3, 2, 12, 13, 8],
  [1, 0, 14, 15, 13],
  [7, 6, 8, 9, 3],
  [5, 4, 10, 11, 7],
]
const laterKeysOfZ = [
  [3, 2, 12, 13, 9],
  [1, 0, 14, 15, 12],
  [7, 6, 8, 9, 2],
  [5, 4, 10, 11, 6],
]
const laterKeysOfX = [
  [8, 9, 7, 6, 3],
  [10, 11, 5, 4, 7],
  [12, 13, 3, 2, 8],
  [14, 15, 1, 0, 13],
]

const keyBoxes = [s5, s6, s7, s8]

/** K1 to K32. */
function subkeysOf(key: Uint8Array): Int32Array {
  const subkeys: number[] = []
  let x = key.slice()
  for (let half = 0; half < 2; half++) {
    for (const [ofZ, ofX] of [
      [keysOfZ, keysOfX],
      [laterKeysOfZ, laterKeysOfX],
    ]) {
      const z = mixed(x, steps)
      subkeys.push(...keysFrom(z, ofZ))
      x = mixed(z, backSteps)
      subkeys.push(...keysFrom(x, ofX))
    }
  }
  return Int32Array.from(subkeys)
}

function mixed(old: Uint8Array, how: typeof steps | typeof backSteps): Uint8Array<ArrayBuffer> {
  const made = new Uint8Array(old.length)
  for (const [index, { from, by, box, at }] of how.entries()) {
    // The first word is made of the old state alone, the others of what is there already.
    const [a, b, c, d] = by.map((byte) => (index === 0 ? old[byte] : made[byte]))
    const word = viewOf(old).getInt32(from) ^ s5[a] ^ s6[b] ^ s7[c] ^ s8[d] ^ box[old[at]]
    viewOf(made).setInt32(4 * index, word)
  }
  return made
}

function keysFrom(state: Uint8Array, places: readonly (readonly number[])[]): number[] {
  return places.map(([a, b, c, d, e], index) => {
    const last = keyBoxes[index][state[e]]
    return s5[state[a]] ^ s6[state[b]] ^ s7[state[c]] ^ s8[state[d]] ^ last
  })
}
