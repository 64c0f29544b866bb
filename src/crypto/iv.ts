/** Generators of initialisation vectors: what a sector's number becomes. */
import type { BlockCipher } from './block-cipher.ts'
import type { IvGeneratorName } from './cipher-spec.ts'

/**
 * IVs of `count` sectors, one behind the other, each as long as a block. Valid until the next call
 * of any generator.
 */
export type IvGenerator = (first: number, count: number) => Uint8Array

/** `essiv` enciphers the number with a cipher that is keyed by a hash of the key. */
export function ivGenerator(
  name: IvGeneratorName,
  blockSize: number,
  essiv?: BlockCipher,
): IvGenerator {
  switch (name) {
    case 'plain':
      return (first, count) => numbers(first, count, blockSize, false)
    case 'plain64':
      return (first, count) => numbers(first, count, blockSize, true)
    case 'essiv':
      if (!essiv) throw new TypeError('ESSIV takes a cipher')
      return (first, count) => essiv.encrypt(numbers(first, count, blockSize, true))
  }
}

/** For no IVs at all, as ECB has it. */
export const noIvs: IvGenerator = () => new Uint8Array(0)

let words = new Uint32Array(0)

/** The least significant byte first; of the upper half only where there is `wide` room. */
function numbers(first: number, count: number, blockSize: number, wide: boolean): Uint8Array {
  const step = blockSize / 4
  if (words.length < count * step) words = new Uint32Array(count * step)
  words.fill(0, 0, count * step)
  for (let index = 0; index < count; index++) {
    const number = first + index
    words[index * step] = number % 2 ** 32
    if (wide) words[index * step + 1] = Math.floor(number / 2 ** 32)
  }
  return new Uint8Array(words.buffer, 0, count * blockSize)
}
