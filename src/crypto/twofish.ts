/**
 * Twofish, after "Twofish: A 128-Bit Block Cipher" (Schneier et al., 1998), section 4. The
 * key-dependent S-boxes and the MDS matrix are joined into four tables of a key's own (section 5.1,
 * full keying). All words are little-endian, as are the machines that Node runs on.
 */
import type { BlockCipher } from './block-cipher.ts'
import { bytesOf, resultWords, rotateLeft, wordsOf } from './words.ts'

const rounds = 16
/** Subkeys: four words before the rounds, four behind, two for each round. */
const keyWords = 8 + 2 * rounds

export class TwofishCipher implements BlockCipher {
  readonly blockSize = 16
  readonly #subkeys: Int32Array
  readonly #tables: readonly Int32Array[]

  constructor(key: Uint8Array) {
    const words = wordsOf(key.slice())
    const even = Array.from(words.filter((_, index) => index % 2 === 0))
    const odd = Array.from(words.filter((_, index) => index % 2 === 1))
    this.#subkeys = subkeysOf(even, odd)
    this.#tables = tablesOf(key)
  }

  encrypt(source: Uint8Array): Uint8Array {
    const input = wordsOf(source)
    const output = resultWords(source.length)
    const k = this.#subkeys
    const [s0, s1, s2, s3] = this.#tables
    for (let at = 0; at < input.length; at += 4) {
      let a = input[at] ^ k[0]
      let b = input[at + 1] ^ k[1]
      let c = input[at + 2] ^ k[2]
      let d = input[at + 3] ^ k[3]
      for (let round = 8; round < keyWords; round += 4) {
        let t0 = s0[a & 255] ^ s1[(a >>> 8) & 255] ^ s2[(a >>> 16) & 255] ^ s3[a >>> 24]
        let t1 = s0[b >>> 24] ^ s1[b & 255] ^ s2[(b >>> 8) & 255] ^ s3[(b >>> 16) & 255]
        c = rotateRight(c ^ (t0 + t1 + k[round]), 1)
        d = rotateLeft(d, 1) ^ (t0 + 2 * t1 + k[round + 1])
        t0 = s0[c & 255] ^ s1[(c >>> 8) & 255] ^ s2[(c >>> 16) & 255] ^ s3[c >>> 24]
        t1 = s0[d >>> 24] ^ s1[d & 255] ^ s2[(d >>> 8) & 255] ^ s3[(d >>> 16) & 255]
        a = rotateRight(a ^ (t0 + t1 + k[round + 2]), 1)
        b = rotateLeft(b, 1) ^ (t0 + 2 * t1 + k[round + 3])
      }
      output[at] = c ^ k[4]
      output[at + 1] = d ^ k[5]
      output[at + 2] = a ^ k[6]
      output[at + 3] = b ^ k[7]
    }
    return bytesOf(output, source.length)
  }

  decrypt(source: Uint8Array): Uint8Array {
    const input = wordsOf(source)
    const output = resultWords(source.length)
    const k = this.#subkeys
    const [s0, s1, s2, s3] = this.#tables
    for (let at = 0; at < input.length; at += 4) {
      let c = input[at] ^ k[4]
      let d = input[at + 1] ^ k[5]
      let a = input[at + 2] ^ k[6]
      let b = input[at + 3] ^ k[7]
      for (let round = keyWords - 4; round >= 8; round -= 4) {
        let t0 = s0[c & 255] ^ s1[(c >>> 8) & 255] ^ s2[(c >>> 16) & 255] ^ s3[c >>> 24]
        let t1 = s0[d >>> 24] ^ s1[d & 255] ^ s2[(d >>> 8) & 255] ^ s3[(d >>> 16) & 255]
        a = rotateLeft(a, 1) ^ (t0 + t1 + k[round + 2])
        b = rotateRight(b ^ (t0 + 2 * t1 + k[round + 3]), 1)
        t0 = s0[a & 255] ^ s1[(a >>> 8) & 255] ^ s2[(a >>> 16) & 255] ^ s3[a >>> 24]
        t1 = s0[b >>> 24] ^ s1[b & 255] ^ s2[(b >>> 8) & 255] ^ s3[(b >>> 16) & 255]
        c = rotateLeft(c, 1) ^ (t0 + t1 + k[round])
        d = rotateRight(d ^ (t0 + 2 * t1 + k[round + 1]), 1)
      }
      output[at] = a ^ k[0]
      output[at + 1] = b ^ k[1]
      output[at + 2] = c ^ k[2]
      output[at + 3] = d ^ k[3]
    }
    return bytesOf(output, source.length)
  }
}

/** Section 4.3.5: the permutations q0 and q1, by their four small tables each. */
const q0 = permutation(
  [0x8, 0x1, 0x7, 0xd, 0x6, 0xf, 0x3, 0x2, 0x0, 0xb, 0x5, 0x9, 0xe, 0xc, 0xa, 0x4],
  [0xe, 0xc, 0xb, 0x8, 0x1, 0x2, 0x3, 0x5, 0xf, 0x4, 0xa, 0x6, 0x7, 0x0, 0x9, 0xd],
  [0xb, 0xa, 0x5, 0xe, 0x6, 0xd, 0x9, 0x0, 0xc, 0x8, 0xf, 0x3, 0x2, 0x4, 0x7, 0x1],
  [0xd, 0x7, 0xf, 0x4, 0x1, 0x2, 0x6, 0xe, 0x9, 0xb, 0x3, 0x0, 0x8, 0x5, 0xc, 0xa],
)
const q1 = permutation(
  [0x2, 0x8, 0xb, 0xd, 0xf, 0x7, 0x6, 0xe, 0x3, 0x1, 0x9, 0x4, 0x0, 0xa, 0xc, 0x5],
  [0x1, 0xe, 0x2, 0xb, 0x4, 0xc, 0x3, 0x7, 0x6, 0xd, 0xa, 0x5, 0xf, 0x9, 0x0, 0x8],
  [0x4, 0xc, 0x7, 0x5, 0x1, 0x6, 0x9, 0xa, 0x0, 0xe, 0xd, 0x8, 0x2, 0xb, 0x3, 0xf],
  [0xb, 0x9, 0x5, 0x1, 0xc, 0x3, 0xd, 0xe, 0x6, 0x4, 0x7, 0xf, 0x2, 0x0, 0x8, 0xa],
)

/** Section 4.3.2: which permutation each byte meets before each part of the key, the last first. */
const stages: readonly (readonly (readonly number[])[])[] = [
  [q1, q0, q1, q0],
  [q0, q0, q1, q1],
  [q0, q1, q0, q1],
  [q1, q1, q0, q0],
  [q1, q0, q0, q1],
]

const mds = [
  [0x01, 0xef, 0x5b, 0x5b],
  [0x5b, 0xef, 0xef, 0x01],
  [0xef, 0x5b, 0x01, 0xef],
  [0xef, 0x01, 0xef, 0x5b],
]
/** x^8 + x^6 + x^5 + x^3 + 1 */
const mdsPolynomial = 0x169

const reedSolomon = [
  [0x01, 0xa4, 0x55, 0x87, 0x5a, 0x58, 0xdb, 0x9e],
  [0xa4, 0x56, 0x82, 0xf3, 0x1e, 0xc6, 0x68, 0xe5],
  [0x02, 0xa1, 0xfc, 0xc1, 0x47, 0xae, 0x3d, 0x19],
  [0xa4, 0x55, 0x87, 0x5a, 0x58, 0xdb, 0x9e, 0x03],
]
/** x^8 + x^6 + x^3 + x^2 + 1 */
const reedSolomonPolynomial = 0x14d

/** What a value of each byte contributes to the matrix product, as a word. */
const mdsColumns = [0, 1, 2, 3].map((column) =>
  Int32Array.from({ length: 256 }, (_, value) =>
    mds.reduce(
      (word, row, index) => word | (multiply(row[column], value, mdsPolynomial) << (8 * index)),
      0,
    ),
  ),
)

/** Section 4.3.1, 4.3.3 */
function subkeysOf(even: readonly number[], odd: readonly number[]): Int32Array {
  const subkeys = new Int32Array(keyWords)
  for (let index = 0; index < keyWords; index += 2) {
    const a = h(index, even)
    const b = rotateLeft(h(index + 1, odd), 8)
    subkeys[index] = a + b
    subkeys[index + 1] = rotateLeft(a + 2 * b, 9)
  }
  return subkeys
}

/** The function g of section 4.3.4, byte by byte. */
function tablesOf(key: Uint8Array): Int32Array[] {
  const parts: number[] = []
  for (let at = 0; at < key.length; at += 8) {
    parts.unshift(
      reedSolomon.reduce((word, row, index) => {
        const sum = row.reduce(
          (byte, factor, column) =>
            byte ^ multiply(factor, key[at + column], reedSolomonPolynomial),
          0,
        )
        return word | (sum << (8 * index))
      }, 0),
    )
  }
  return [0, 1, 2, 3].map((lane) =>
    Int32Array.from(
      { length: 256 },
      (_, value) => mdsColumns[lane][substitute(value, lane, parts)],
    ),
  )
}

function h(index: number, parts: readonly number[]): number {
  return [0, 1, 2, 3].reduce(
    (word, lane) => word ^ mdsColumns[lane][substitute(index, lane, parts)],
    0,
  )
}

/** One byte through the permutations, the parts of the key coming in from the last to the first. */
function substitute(value: number, lane: number, parts: readonly number[]): number {
  let byte = value
  for (let part = parts.length - 1; part >= 0; part--) {
    byte = stages[part + 1][lane][byte] ^ ((parts[part] >>> (8 * lane)) & 255)
  }
  return stages[0][lane][byte]
}

function permutation(...small: readonly (readonly number[])[]): number[] {
  const [t0, t1, t2, t3] = small
  return Array.from({ length: 256 }, (_, x) => {
    let a = x >> 4
    let b = x & 15
    ;[a, b] = [a ^ b, a ^ rotateNibble(b) ^ ((8 * a) & 15)]
    ;[a, b] = [t0[a], t1[b]]
    ;[a, b] = [a ^ b, a ^ rotateNibble(b) ^ ((8 * a) & 15)]
    return 16 * t3[b] + t2[a]
  })
}

function rotateNibble(value: number): number {
  return (value >> 1) | ((value & 1) << 3)
}

/** In the field of 256 elements that the polynomial defines. */
function multiply(a: number, b: number, polynomial: number): number {
  let product = 0
  for (let factor = a, rest = b; rest > 0; rest >>= 1) {
    if (rest & 1) product ^= factor
    factor <<= 1
    if (factor & 256) factor ^= polynomial
  }
  return product
}

function rotateRight(value: number, count: number): number {
  return (value >>> count) | (value << (32 - count))
}
