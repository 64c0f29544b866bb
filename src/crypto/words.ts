/** Bytes as 32-bit words of the machine, for loops that combine long runs of them. */

/** Memory that the ciphers written here put their results in; the next call overwrites it. */
let scratch = new Uint32Array(0)

/** At least `length` bytes of it, as words. */
export function resultWords(length: number): Uint32Array {
  if (scratch.byteLength < length) scratch = new Uint32Array(Math.ceil(length / 4))
  return scratch
}

/** The same bytes as words, or a copy of them where they do not lie on a boundary of words. */
export function wordsOf(bytes: Uint8Array): Uint32Array {
  const { buffer, byteOffset, length } = bytes
  if (byteOffset % 4 === 0) return new Uint32Array(buffer, byteOffset, length / 4)
  const copy = new Uint32Array(length / 4)
  new Uint8Array(copy.buffer).set(bytes)
  return copy
}

/** The first `length` bytes of words. */
export function bytesOf(words: Uint32Array, length: number): Uint8Array {
  return new Uint8Array(words.buffer, words.byteOffset, length)
}

export function rotateLeft(value: number, count: number): number {
  return (value << count) | (value >>> (32 - count))
}
