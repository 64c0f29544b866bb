/** Puts cipher, mode, IV generator and key together. */
import { type BlockCipher, blockCipher } from './block-cipher.ts'
import { type CipherSpec, essivAlgorithm, type HashName } from './cipher-spec.ts'
import { digest } from './hash.ts'
import { ivGenerator, noIvs } from './iv.ts'
import { type SectorCipher, sectorCipher } from './sector-cipher.ts'

/** Keeps no reference to `key`, whose length is `keyLengthOf` the specification. */
export function diskCipher(spec: CipherSpec, key: Uint8Array): SectorCipher {
  const { algorithm, mode } = spec
  const { blockSize, keyLength } = algorithm
  const ivs =
    mode === 'ecb' ? noIvs : ivGenerator(spec.ivGenerator, blockSize, essivCipher(spec, key))
  const cipher = blockCipher(algorithm, key.subarray(0, keyLength))
  const tweaks = mode === 'xts' ? blockCipher(algorithm, key.subarray(keyLength)) : undefined
  return sectorCipher(mode, cipher, ivs, tweaks)
}

/** Keyed by a hash of the whole key. */
function essivCipher(spec: CipherSpec, key: Uint8Array): BlockCipher | undefined {
  if (spec.ivGenerator !== 'essiv') return undefined
  const salt = digest(spec.ivHash as HashName, key)
  const cipher = blockCipher(essivAlgorithm(spec), salt)
  salt.fill(0)
  return cipher
}
