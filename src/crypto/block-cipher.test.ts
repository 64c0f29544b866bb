import { createHash } from 'node:crypto'
import { expect, test } from 'vitest'
import { SeededRandom } from '../bytes/seeded-random.ts'
import { blockCipher } from './block-cipher.ts'
import { Cast5Cipher } from './cast5.ts'
import { cipherAlgorithms } from './cipher-spec.ts'
import { inverses, substitutions } from './serpent-boxes.ts'
import { TwofishCipher } from './twofish.ts'

/** The S-boxes of the Serpent proposal, appendix A.5. */
const serpentTables = [
  [3, 8, 15, 1, 10, 6, 5, 11, 14, 13, 4, 2, 7, 0, 9, 12],
  [15, 12, 2, 7, 9, 0, 5, 10, 1, 11, 14, 8, 6, 13, 3, 4],
  [8, 6, 7, 9, 3, 12, 10, 15, 13, 1, 14, 4, 0, 11, 5, 2],
  [0, 15, 11, 8, 12, 9, 6, 3, 13, 1, 2, 4, 10, 7, 5, 14],
  [1, 15, 8, 3, 12, 0, 11, 6, 2, 5, 4, 10, 9, 14, 7, 13],
  [15, 5, 2, 11, 4, 10, 9, 12, 0, 3, 14, 8, 13, 6, 7, 1],
  [7, 2, 12, 5, 8, 4, 6, 11, 14, 9, 1, 15, 13, 3, 10, 0],
  [1, 13, 15, 0, 14, 8, 2, 11, 7, 4, 12, 10, 9, 3, 5, 6],
]

test.each(serpentTables.map((table, index) => ({ table, index })))(
  'the logic of S$index of Serpent is its table',
  ({ table, index }) => {
    // All sixteen inputs at once, one a column.
    const inputs = Int32Array.from({ length: 4 }, (_, bit) => columns((value) => value, bit))
    const outputs = Int32Array.from({ length: 4 }, (_, bit) => columns((v) => table[v], bit))
    const state = inputs.slice()
    substitutions[index](state)
    expect([...state].map((word) => word & 0xffff)).toEqual([...outputs])
    inverses[index](state)
    expect([...state].map((word) => word & 0xffff)).toEqual([...inputs])
  },
)

function columns(value: (input: number) => number, bit: number): number {
  let word = 0
  for (let input = 0; input < 16; input++) word |= ((value(input) >> bit) & 1) << input
  return word
}

/** "Twofish: A 128-Bit Block Cipher", appendix B. */
test.each([
  ['00000000000000000000000000000000', '9f589f5cf6122c32b6bfec2f2ae8c35a'],
  ['0123456789abcdeffedcba98765432100011223344556677', 'cfd1d2e5a9be9cdf501f13b892bd2248'],
  [
    '0123456789abcdeffedcba987654321000112233445566778899aabbccddeeff',
    '37527be0052334b89f0cfccae87cfa20',
  ],
])('Twofish with the key %s', (key, expected) => {
  const cipher = new TwofishCipher(Buffer.from(key, 'hex'))
  const text = Buffer.from(cipher.encrypt(new Uint8Array(16)))
  expect(text.toString('hex')).toBe(expected)
  expect([...cipher.decrypt(text)]).toEqual(new Array(16).fill(0))
})

/** RFC 2144, appendix B.1. */
test('CAST5 enciphers as its specification says', () => {
  const cipher = new Cast5Cipher(Buffer.from('0123456712345678234567893456789a', 'hex'))
  const hidden = Buffer.from(cipher.encrypt(Buffer.from('0123456789abcdef', 'hex')))
  expect(hidden.toString('hex')).toBe('238b4fe5847e44b2')
  expect(Buffer.from(cipher.decrypt(hidden)).toString('hex')).toBe('0123456789abcdef')
})

test('CAST5 enciphers what its tables are for as OpenSSL does', () => {
  const digest = (hash: string, text: string) => createHash(hash).update(text).digest()
  const all = createHash('sha256')
  for (let index = 0; index < 200; index++) {
    const cipher = new Cast5Cipher(digest('md5', `key${index}`))
    all.update(cipher.encrypt(digest('sha512', `data${index}`)))
  }
  // `openssl enc -cast5-ecb -nopad -provider legacy`
  const expected = 'c46abfc6af8373e22426926ad35543025181daa13c5f689cf681f1e9c69e5973'
  expect(all.digest('hex')).toBe(expected)
})

test.each(cipherAlgorithms)('$name gives back what it was given, block by block', (algorithm) => {
  const random = new SeededRandom(1)
  const bytes = (length: number) => Uint8Array.from({ length }, () => random.below(256))
  const cipher = blockCipher(algorithm, bytes(algorithm.keyLength))
  const plain = bytes(10 * 16)
  const hidden = Buffer.from(cipher.encrypt(plain))
  expect(hidden).not.toEqual(Buffer.from(plain))
  expect(Buffer.from(cipher.encrypt(plain.subarray(16, 32)))).toEqual(hidden.subarray(16, 32))
  expect(Buffer.from(cipher.decrypt(hidden))).toEqual(Buffer.from(plain))
})
