/**
 * The anti-forensic splitter of the LUKS specification, section 2.4: a key is spread over many
 * stripes, all of which it takes to have it back, so that destroying a few destroys it.
 */
import { randomFillSync } from 'node:crypto'
import { viewOf } from '../bytes/view.ts'
import { digestLength, type HashName } from './cipher-spec.ts'
import { digest } from './hash.ts'

/** `stripes` times as long as `key`. */
export function afSplit(key: Uint8Array, stripes: number, hash: HashName): Uint8Array {
  const { length } = key
  const split = new Uint8Array(length * stripes)
  const random = randomFillSync(split.subarray(0, length * (stripes - 1)))
  const last = diffuseAll(random, length, hash)
  for (let at = 0; at < length; at++) split[random.length + at] = last[at] ^ key[at]
  last.fill(0)
  return split
}

/** The key, which is `length` bytes long. */
export function afMerge(split: Uint8Array, length: number, hash: HashName): Uint8Array {
  const key = diffuseAll(split.subarray(0, split.length - length), length, hash)
  for (let at = 0; at < length; at++) key[at] ^= split[split.length - length + at]
  return key
}

function diffuseAll(stripes: Uint8Array, length: number, hash: HashName): Uint8Array {
  const sum = new Uint8Array(length)
  for (let at = 0; at < stripes.length; at += length) {
    for (let index = 0; index < length; index++) sum[index] ^= stripes[at + index]
    diffuse(sum, hash)
  }
  return sum
}

/** Hashes piece by piece, each with its number before it; the last may be cut off. */
function diffuse(bytes: Uint8Array, hash: HashName): void {
  const size = digestLength(hash)
  for (let at = 0, number = 0; at < bytes.length; at += size, number++) {
    const piece = bytes.subarray(at, at + size)
    const input = new Uint8Array(4 + piece.length)
    viewOf(input).setUint32(0, number)
    input.set(piece, 4)
    piece.set(digest(hash, input).subarray(0, piece.length))
    input.fill(0)
  }
}
