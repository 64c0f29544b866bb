/** The judgement on a header: whether the image can be opened. */
import { maxDiskSize } from '../../bytes/range.ts'
import { featureName } from './extensions.ts'
import type { Faults } from './faults.ts'
import {
  autoclear,
  compressionTypes,
  type Header,
  headerV2,
  headerV3,
  incompatible,
} from './header.ts'
import { minExtendedClusterBits } from './subclusters.ts'

const knownIncompatible =
  incompatible.dirty |
  incompatible.corrupt |
  incompatible.externalDataFile |
  incompatible.compressionType |
  incompatible.extendedL2

/** LUKS. */
const lastCryptMethod = 2

/**
 * Refuses what contradicts the format or is not supported, before any table is read. Where the tables
 * lie is looked at by `tableFaults`.
 */
export function checkHeader(header: Header, faults: Faults): void {
  checkFeatures(header, faults)
  if (header.cryptMethod > lastCryptMethod) refuseEncryption(header.cryptMethod, faults)
  checkCompression(header, faults)
  if (header.size > maxDiskSize) {
    throw faults.refuse('UNSUPPORTED', 'Image is too big', headerV2.offsets.size)
  }
}

function checkFeatures(header: Header, faults: Faults): void {
  const unknown = header.incompatibleFeatures & ~knownIncompatible
  if (unknown !== 0n) {
    throw faults.refuse(
      'UNSUPPORTED',
      `Unsupported qcow2 feature(s): ${unknownNames(header, unknown).join(', ')}`,
      headerV3.offsets.incompatibleFeatures,
    )
  }
  const external = (header.incompatibleFeatures & incompatible.externalDataFile) !== 0n
  if (!external && (header.autoclearFeatures & autoclear.rawExternalData) !== 0n) {
    throw faults.refuse('CORRUPT_IMAGE', 'data-file-raw requires a data file', 88)
  }
  const extended = (header.incompatibleFeatures & incompatible.extendedL2) !== 0n
  if (extended && header.clusterBits < minExtendedClusterBits) {
    throw faults.refuse(
      'CORRUPT_IMAGE',
      `Extended L2 entries need clusters of at least ${2 ** minExtendedClusterBits} bytes`,
      headerV3.offsets.incompatibleFeatures,
    )
  }
}

/** Names from the image's own table; bits without one are shown together as a number. */
function unknownNames(header: Header, unknown: bigint): string[] {
  const names: string[] = []
  let nameless = 0n
  for (let bit = 0; bit < 64; bit++) {
    const mask = 1n << BigInt(bit)
    if ((unknown & mask) === 0n) continue
    const name = featureName(header.extensions, 'incompatible', bit)
    if (name === undefined) nameless |= mask
    else names.push(name)
  }
  if (nameless !== 0n) names.push(`Unknown incompatible feature: ${nameless.toString(16)}`)
  return names
}

function refuseEncryption(method: number, faults: Faults): never {
  const what = `Unsupported encryption method ${method}`
  throw faults.refuse('UNSUPPORTED', what, headerV2.offsets.cryptMethod)
}

function checkCompression(header: Header, faults: Faults): void {
  const at = headerV3.size
  const { compressionType } = header
  if (compressionType >= compressionTypes.length) {
    throw faults.refuse('UNSUPPORTED', `qcow2: unknown compression type: ${compressionType}`, at)
  }
  const flagged = (header.incompatibleFeatures & incompatible.compressionType) !== 0n
  if (flagged === (compressionType !== 0)) return
  const must = flagged ? 'must not be set' : 'must be set'
  throw faults.refuse(
    'CORRUPT_IMAGE',
    `qcow2: Compression type incompatible feature bit ${must}`,
    at,
  )
}
