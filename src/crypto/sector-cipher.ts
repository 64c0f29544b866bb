/**
 * Disk encryption: a mode and an IV generator make of a block cipher one for sectors, each of which
 * is enciphered by itself with its number as the IV.
 *
 * The block ciphers work on runs of blocks that do not depend on each other, as many as possible in
 * a call: all of a range in XTS, CTR, ECB and CBC decryption; in CBC encryption the same block of
 * every sector. A cipher object for each sector, which is what Node offers, is twenty times slower.
 */
import type { BlockCipher } from './block-cipher.ts'
import type { CipherMode } from './cipher-spec.ts'
import type { IvGenerator } from './iv.ts'
import { wordsOf } from './words.ts'

/** Bytes of a sector, whatever that of the disk is. */
export const sectorSize = 512

/** Enciphers and deciphers what lies on a disk. */
export interface SectorCipher {
  /**
   * `offset` decides the IVs. It and the lengths, which are equal, are multiples of 512 bytes;
   * `source` and `target` may be the same bytes.
   */
  encrypt(offset: number, source: Uint8Array, target: Uint8Array): void
  decrypt(offset: number, source: Uint8Array, target: Uint8Array): void
}

/** What a mode does with sectors from number `first` on. */
export interface Mode {
  /** Most sectors in one go. */
  readonly most: number
  encrypt(first: number, source: Uint32Array, target: Uint32Array): void
  decrypt(first: number, source: Uint32Array, target: Uint32Array): void
}

/** 16 KiB: what comes of a pass is still in the processor's cache at the next. */
const fewSectors = 32
/** 64 KiB: where a pass has one block of each sector, the calls are what costs. */
const manySectors = 128

/** In XTS the second half of the key makes `tweaks`, the first half `cipher`. */
export function sectorCipher(
  mode: CipherMode,
  cipher: BlockCipher,
  ivs: IvGenerator,
  tweaks?: BlockCipher,
): SectorCipher {
  return inRuns(modes[mode](cipher, ivs, tweaks))
}

const modes: Record<
  CipherMode,
  (cipher: BlockCipher, ivs: IvGenerator, tweaks?: BlockCipher) => Mode
> = {
  ecb: (cipher) => ({
    most: fewSectors,
    encrypt: (_, source, target) => target.set(wordsOf(cipher.encrypt(octets(source)))),
    decrypt: (_, source, target) => target.set(wordsOf(cipher.decrypt(octets(source)))),
  }),
  cbc: (cipher, ivs) => new CbcMode(cipher, ivs),
  xts(cipher, ivs, tweaks) {
    if (!tweaks) throw new TypeError('XTS takes two keys')
    return new XtsMode(cipher, tweaks, ivs)
  },
  ctr(cipher, ivs) {
    const both = counterMode(cipher, ivs)
    return { most: fewSectors, encrypt: both, decrypt: both }
  },
}

function inRuns(mode: Mode): SectorCipher {
  const each = (
    work: Mode['encrypt'],
    offset: number,
    source: Uint8Array,
    target: Uint8Array,
  ): void => {
    const step = mode.most * sectorSize
    for (let at = 0; at < source.length; at += step) {
      const end = Math.min(at + step, source.length)
      const into = target.subarray(at, end)
      const words = wordsOf(into)
      work((offset + at) / sectorSize, wordsOf(source.subarray(at, end)), words)
      // Targets off the boundaries of words were worked on in a copy.
      if (words.buffer !== into.buffer) into.set(octets(words))
    }
  }
  return {
    encrypt: (offset, source, target) => each(mode.encrypt.bind(mode), offset, source, target),
    decrypt: (offset, source, target) => each(mode.decrypt.bind(mode), offset, source, target),
  }
}

const wordsPerSector = sectorSize / 4

/** Combined with a key's work in the course of one call, and of no use to anybody afterwards. */
const mixed = new Uint32Array(manySectors * wordsPerSector)
const masks = new Uint32Array(manySectors * wordsPerSector)

/** IEEE 1619, section 5. */
class XtsMode implements Mode {
  readonly most = fewSectors
  readonly #cipher: BlockCipher
  readonly #tweaks: BlockCipher
  readonly #ivs: IvGenerator

  constructor(cipher: BlockCipher, tweaks: BlockCipher, ivs: IvGenerator) {
    this.#cipher = cipher
    this.#tweaks = tweaks
    this.#ivs = ivs
  }

  encrypt(first: number, source: Uint32Array, target: Uint32Array): void {
    this.#fillMasks(first, source.length / wordsPerSector)
    combine(source, masks, mixed)
    combine(wordsOf(this.#cipher.encrypt(octets(mixed, source.length))), masks, target)
  }

  decrypt(first: number, source: Uint32Array, target: Uint32Array): void {
    this.#fillMasks(first, source.length / wordsPerSector)
    combine(source, masks, mixed)
    combine(wordsOf(this.#cipher.decrypt(octets(mixed, source.length))), masks, target)
  }

  /** The enciphered number of each sector, multiplied by x for each block of it. */
  #fillMasks(first: number, count: number): void {
    const starts = wordsOf(this.#tweaks.encrypt(this.#ivs(first, count)))
    let at = 0
    for (let sector = 0; sector < count; sector++) {
      let a = starts[4 * sector] | 0
      let b = starts[4 * sector + 1] | 0
      let c = starts[4 * sector + 2] | 0
      let d = starts[4 * sector + 3] | 0
      for (let block = 0; block < sectorSize / 16; block++) {
        masks[at++] = a
        masks[at++] = b
        masks[at++] = c
        masks[at++] = d
        const carry = (d >> 31) & 0x87
        d = (d << 1) | (c >>> 31)
        c = (c << 1) | (b >>> 31)
        b = (b << 1) | (a >>> 31)
        a = (a << 1) ^ carry
      }
    }
  }
}

class CbcMode implements Mode {
  readonly most = manySectors
  readonly #cipher: BlockCipher
  readonly #ivs: IvGenerator
  readonly #wordsPerBlock: number

  constructor(cipher: BlockCipher, ivs: IvGenerator) {
    this.#cipher = cipher
    this.#ivs = ivs
    this.#wordsPerBlock = cipher.blockSize / 4
  }

  /** Block by block of all sectors: those of one sector depend on each other. */
  encrypt(first: number, source: Uint32Array, target: Uint32Array): void {
    const size = this.#wordsPerBlock
    const count = source.length / wordsPerSector
    let before = wordsOf(this.#ivs(first, count))
    for (let block = 0; block < wordsPerSector; block += size) {
      for (let sector = 0; sector < count; sector++) {
        const at = sector * wordsPerSector + block
        for (let word = 0; word < size; word++) {
          mixed[sector * size + word] = source[at + word] ^ before[sector * size + word]
        }
      }
      before = wordsOf(this.#cipher.encrypt(octets(mixed, count * size)))
      for (let sector = 0; sector < count; sector++) {
        const at = sector * wordsPerSector + block
        for (let word = 0; word < size; word++) target[at + word] = before[sector * size + word]
      }
    }
  }

  decrypt(first: number, source: Uint32Array, target: Uint32Array): void {
    const size = this.#wordsPerBlock
    const count = source.length / wordsPerSector
    mixed.set(this.#chain(wordsOf(this.#ivs(first, count)), source, size))
    combine(wordsOf(this.#cipher.decrypt(octets(source))), mixed, target)
  }

  /** What each block was combined with: the one before it, or the sector's IV. */
  #chain(ivs: Uint32Array, source: Uint32Array, size: number): Uint32Array {
    masks.set(source.subarray(0, source.length - size), size)
    for (let at = 0, iv = 0; at < source.length; at += wordsPerSector) {
      for (let word = 0; word < size; word++) masks[at + word] = ivs[iv++]
    }
    return masks.subarray(0, source.length)
  }
}

/** The IV is the first value of a counter with the most significant byte first. */
function counterMode(cipher: BlockCipher, ivs: IvGenerator): Mode['encrypt'] {
  const { blockSize } = cipher
  return (first, source, target) => {
    const starts = ivs(first, source.length / wordsPerSector)
    const counters = octets(mixed, source.length)
    for (let at = 0, iv = 0; at < counters.length; iv += blockSize) {
      const counter = starts.slice(iv, iv + blockSize)
      for (const end = at + sectorSize; at < end; at += blockSize) {
        counters.set(counter, at)
        increment(counter)
      }
    }
    combine(source, wordsOf(cipher.encrypt(counters)), target)
  }
}

function increment(counter: Uint8Array): void {
  for (let at = counter.length - 1; at >= 0; at--) {
    counter[at]++
    if (counter[at] !== 0) return
  }
}

/** As long as `target`, or `source` where the target has room for more. */
function combine(source: Uint32Array, mask: Uint32Array, target: Uint32Array): void {
  const { length } = source
  for (let at = 0; at < length; at++) target[at] = source[at] ^ mask[at]
}

/** The bytes of the first `count` words. */
function octets(words: Uint32Array, count = words.length): Uint8Array {
  return new Uint8Array(words.buffer, words.byteOffset, count * 4)
}
