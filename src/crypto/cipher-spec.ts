/**
 * What a disk can be encrypted with, by the names that QEMU and LUKS headers have: ciphers, modes,
 * IV generators and hashes, and what goes together. Nothing here loads the ciphers themselves.
 */
import { unsupported } from '../errors.ts'

/** Bytes of each hash's digest. */
const digestLengths = {
  md5: 16,
  sha1: 20,
  sha224: 28,
  sha256: 32,
  sha384: 48,
  sha512: 64,
  ripemd160: 20,
} as const

export type HashName = keyof typeof digestLengths

export const hashNames = Object.keys(digestLengths) as readonly HashName[]

export const cipherModes = ['ecb', 'cbc', 'xts', 'ctr'] as const
export type CipherMode = (typeof cipherModes)[number]

export const ivGenerators = ['plain', 'plain64', 'essiv'] as const
export type IvGeneratorName = (typeof ivGenerators)[number]

/** What a LUKS header calls a cipher, whatever the length of its key. */
export type CipherFamily = 'aes' | 'cast5' | 'serpent' | 'twofish'

export interface CipherAlgorithm {
  /** `aes-256` */
  readonly name: string
  readonly family: CipherFamily
  /** Bytes. */
  readonly keyLength: number
  readonly blockSize: number
}

const largeBlocks = (['aes', 'serpent', 'twofish'] as const).flatMap((family) =>
  [16, 24, 32].map((keyLength) => ({
    name: `${family}-${keyLength * 8}`,
    family,
    keyLength,
    blockSize: 16,
  })),
)

export const cipherAlgorithms: readonly CipherAlgorithm[] = [
  ...largeBlocks,
  { name: 'cast5-128', family: 'cast5', keyLength: 16, blockSize: 8 },
]

/** QEMU's names of ciphers that there is nothing for here. */
export const unsupportedCiphers: readonly string[] = ['des', '3des']

export interface CipherSpec {
  readonly algorithm: CipherAlgorithm
  readonly mode: CipherMode
  readonly ivGenerator: IvGeneratorName
  /** For `essiv`: the hash that makes the key of the IVs. */
  readonly ivHash?: HashName
}

export function digestLength(name: HashName): number {
  return digestLengths[name]
}

/** Bytes of the key. XTS takes two, one behind the other. */
export function keyLengthOf({ algorithm, mode }: CipherSpec): number {
  return mode === 'xts' ? 2 * algorithm.keyLength : algorithm.keyLength
}

/** The cipher of a family that takes keys of that many bytes, or undefined when there is none. */
export function findInFamily(family: string, keyLength: number): CipherAlgorithm | undefined {
  return cipherAlgorithms.find((each) => each.family === family && each.keyLength === keyLength)
}

/** For `essiv`: the cipher of the same family whose key is as long as the hash. */
export function essivAlgorithm({ algorithm, ivHash }: CipherSpec): CipherAlgorithm {
  const { family } = algorithm
  const length = ivHash === undefined ? 0 : digestLength(ivHash)
  const found = findInFamily(family, length)
  if (found) return found
  if (family === 'cast5') throw unsupported(`Cipher ${algorithm.name} not supported with essiv`)
  const shown = family === 'aes' ? 'AES' : family[0].toUpperCase() + family.slice(1)
  throw unsupported(`No ${shown} cipher with key size ${length} available`)
}

/** Throws `UNSUPPORTED`, in QEMU's words, for parts that do not fit together. */
export function checkSpec(spec: CipherSpec): void {
  if (spec.ivGenerator === 'essiv') essivAlgorithm(spec)
  // IEEE 1619 has it for blocks of 16 bytes.
  if (spec.mode === 'xts' && spec.algorithm.blockSize !== 16) {
    throw unsupported('Unsupported cipher mode xts')
  }
}
