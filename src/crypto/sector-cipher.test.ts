import { createCipheriv, createHash } from 'node:crypto'
import { expect, test } from 'vitest'
import { SeededRandom } from '../bytes/seeded-random.ts'
import { cipherAlgorithms, cipherModes, ivGenerators } from './cipher-spec.ts'
import { diskCipher } from './disk-cipher.ts'

const aes256 = cipherAlgorithms.find(
  ({ name }) => name === 'aes-256',
) as (typeof cipherAlgorithms)[0]
const random = new SeededRandom(7)
const bytes = (length: number) => Uint8Array.from({ length }, () => random.below(256))
const key = bytes(64)
/** Beyond what a sector's number in 32 bits can say. */
const farOffset = (2 ** 32 + 5) * 512

function numbered(offset: number, bits: 32 | 64): Buffer {
  const iv = Buffer.alloc(16)
  const number = BigInt(offset / 512)
  iv.writeBigUInt64LE(bits === 32 ? number & 0xffffffffn : number)
  return iv
}

/** What Node's own ciphers make of it, sector by sector. */
function expected(name: string, cipherKey: Uint8Array, offset: number, plain: Uint8Array): Buffer {
  const [mode, generator] = name.split('-')
  const parts: Buffer[] = []
  for (let at = 0; at < plain.length; at += 512) {
    let iv = numbered(offset + at, generator === 'plain' ? 32 : 64)
    if (generator === 'essiv') {
      const salt = createHash('sha256').update(cipherKey).digest()
      iv = createCipheriv('aes-256-ecb', salt, null).update(iv)
    }
    const cipher = createCipheriv(`aes-256-${mode}`, cipherKey, mode === 'ecb' ? null : iv)
    parts.push(cipher.update(plain.subarray(at, at + 512)))
  }
  return Buffer.concat(parts.map((part) => part.subarray(0, 512)))
}

const names = cipherModes.flatMap((mode) => ivGenerators.map((ivs) => `${mode}-${ivs}`))

test.each(names)('aes-256-%s is what sector by sector gives', (name) => {
  const [mode, generator] = name.split('-')
  const spec = {
    algorithm: aes256,
    mode: cipherModes.find((one) => one === mode) ?? 'xts',
    ivGenerator: ivGenerators.find((one) => one === generator) ?? 'plain',
    ivHash: 'sha256',
  } as const
  const cipherKey = key.subarray(0, mode === 'xts' ? 64 : 32)
  const cipher = diskCipher(spec, cipherKey)
  for (const [offset, sectors] of [
    [0, 1],
    [512 * 9, 3],
    [farOffset, 300],
  ]) {
    const plain = bytes(sectors * 512)
    const hidden = new Uint8Array(plain.length)
    cipher.encrypt(offset, plain, hidden)
    expect(Buffer.from(hidden).equals(expected(name, cipherKey, offset, plain))).toBe(true)
    // In place, and off the boundaries of words.
    const odd = new Uint8Array(hidden.length + 1).subarray(1)
    odd.set(hidden)
    cipher.decrypt(offset, odd, odd)
    expect(Buffer.from(odd).equals(plain)).toBe(true)
  }
})
