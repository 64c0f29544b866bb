/** Options of new LUKS headers, as `create -o` has them, and QEMU's defaults. */
import type { OptionReader } from '../../block/options.ts'
import {
  checkSpec,
  cipherAlgorithms,
  cipherModes,
  type HashName,
  hashNames,
  ivGenerators,
  unsupportedCiphers,
} from '../../crypto/cipher-spec.ts'
import type { NewHeader } from '../../crypto/luks/key-slots.ts'
import { BlockError, invalid } from '../../errors.ts'

export const defaultIterTimeMs = 2000

/** Names of the options, each to be found behind `prefix`. */
export const luksOptionNames = [
  'cipher-alg',
  'cipher-mode',
  'hash-alg',
  'iter-time',
  'ivgen-alg',
  'ivgen-hash-alg',
] as const

export function parseLuksOptions(reader: OptionReader, prefix: string): NewHeader {
  const cipherName = choice(reader, prefix, 'cipher-alg', allCiphers) ?? 'aes-256'
  const mode = choice(reader, prefix, 'cipher-mode', cipherModes) ?? 'xts'
  const ivGenerator = choice(reader, prefix, 'ivgen-alg', ivGenerators) ?? 'plain64'
  const ivHash = choice(reader, prefix, 'ivgen-hash-alg', hashNames)
  const hash: HashName = choice(reader, prefix, 'hash-alg', hashNames) ?? 'sha256'
  const iterTimeMs = parseIterTime(reader, prefix) ?? defaultIterTimeMs
  const algorithm = cipherAlgorithms.find(({ name }) => name === cipherName)
  if (!algorithm) {
    throw new BlockError('UNSUPPORTED', `Algorithm '${cipherName}' not supported`, {
      errno: 'ENOTSUP',
    })
  }
  const spec = {
    algorithm,
    mode,
    ivGenerator,
    ivHash: ivGenerator === 'essiv' ? (ivHash ?? 'sha256') : undefined,
  }
  checkSpec(spec)
  return { spec, hash, iterTimeMs }
}

/** Milliseconds. */
export function parseIterTime(reader: OptionReader, prefix: string): number | undefined {
  const name = `${prefix}iter-time`
  const value = reader.integer(name)
  if (value === undefined || value >= 0) return value
  throw invalid(`Parameter '${name}' expects a number`)
}

const allCiphers = [...cipherAlgorithms.map(({ name }) => name), ...unsupportedCiphers]

/** As `oneOf`; the error names the option without its prefix, as QEMU's does. */
function choice<const T extends string>(
  reader: OptionReader,
  prefix: string,
  name: string,
  allowed: readonly T[],
): T | undefined {
  const value = reader.string(`${prefix}${name}`)
  const found = allowed.find((one) => one === value)
  if (value === undefined || found) return found
  throw invalid(`Parameter '${name}' does not accept value '${value}'`)
}
