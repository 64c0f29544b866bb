/**
 * What options of a new image have to be together. In qemu-img's order, since it tells the first fault
 * only; `test/interop/qcow2-create-random.test.ts` asks it for two at once.
 */
import { isPowerOfTwo, maxDiskSize } from '../../bytes/range.ts'
import { BlockError, invalid } from '../../errors.ts'
import type { Qcow2CreateOptions } from './create-options.ts'
import { incompatible, l1SizeFor } from './header.ts'
import { maxBackingNameBytes, maxClusterBits, maxL1Bytes, minClusterBits } from './limits.ts'
import { minExtendedClusterBits } from './subclusters.ts'

/** What each option says by itself is allowed, apart from sizes and numbers. */
export interface AskedOptions extends Omit<Qcow2CreateOptions, 'backing' | 'dataFile'> {
  readonly backingFile: string | undefined
  readonly backingFormat: string | undefined
  readonly dataFile: string | undefined
  readonly dataFileRaw: boolean
}

export const defaultRefcountBits = 16

export function checkTogether(asked: AskedOptions): void {
  const { version, extendedL2, preallocation, refcountBits } = asked
  if (extendedL2 && version < 3) {
    throw invalid(`Extended L2 entries are only supported with ${needsV3}`)
  }
  checkClusterSize(asked)
  checkExtended(asked)
  if (preallocation !== 'off' && isBacked(asked) && !extendedL2) {
    throw invalid(
      'Backing file and preallocation can only be used at the same time if extended_l2 is on',
    )
  }
  if (asked.backingFormat !== undefined && !isBacked(asked)) {
    throw invalid('Backing format cannot be used without backing file')
  }
  if (asked.lazyRefcounts && version < 3) {
    throw invalid(`Lazy refcounts only supported with ${needsV3}`)
  }
  if (!isPowerOfTwo(refcountBits) || refcountBits > 64) {
    throw invalid('Refcount width must be a power of two and may not exceed 64 bits')
  }
  if (refcountBits !== defaultRefcountBits && version < 3) {
    throw invalid(
      'Different refcount widths than 16 bits require compatibility level 1.1 or above ' +
        '(use version=v3 or greater)',
    )
  }
  checkDataFile(asked)
  if (asked.compression !== 'zlib' && version < 3) {
    throw invalid(`Non-zlib compression type is only supported with ${needsV3}`)
  }
  checkSize(asked)
  if (isBacked(asked) && Buffer.byteLength(asked.backingFile) > maxBackingNameBytes) {
    throw unassignable(asked)
  }
}

const needsV3 = 'compatibility level 1.1 and above (use version=v3 or greater)'

function checkClusterSize({ clusterSize: size }: AskedOptions): void {
  if (isPowerOfTwo(size) && size >= 2 ** minClusterBits && size <= 2 ** maxClusterBits) return
  throw invalid('Cluster size must be a power of two between 512 and 2048k')
}

function checkExtended({ extendedL2, clusterSize }: AskedOptions): void {
  const smallest = 2 ** minExtendedClusterBits
  if (!extendedL2 || clusterSize >= smallest) return
  throw invalid(
    `Extended L2 entries are only supported with cluster sizes of at least ${smallest} bytes`,
  )
}

function checkDataFile(asked: AskedOptions): void {
  const { dataFile, dataFileRaw } = asked
  if (dataFileRaw && dataFile === undefined) throw invalid('data-file-raw requires data-file')
  if (dataFileRaw && isBacked(asked)) {
    throw invalid('Backing file and data-file-raw cannot be used at the same time')
  }
  if (dataFile !== undefined && asked.version < 3) {
    throw invalid(`External data files are only supported with ${needsV3}`)
  }
}

function unassignable({ backingFile, backingFormat }: AskedOptions): BlockError {
  const format = backingFormat === undefined ? '' : ` with format '${backingFormat}'`
  return invalid(`Could not assign backing file '${backingFile}'${format}: Invalid argument`)
}

function checkSize({ size, clusterSize, extendedL2 }: AskedOptions): void {
  const l1Size = l1SizeFor(size, {
    clusterBits: Math.log2(clusterSize),
    incompatibleFeatures: extendedL2 ? incompatible.extendedL2 : 0n,
  })
  if (size <= maxDiskSize && l1Size * 8 <= maxL1Bytes) return
  throw new BlockError(
    'INVALID_ARGUMENT',
    "The image size is too large for file format 'qcow2' (try using a larger cluster size)",
    { errno: 'EFBIG' },
  )
}

function isBacked(asked: AskedOptions): asked is AskedOptions & { readonly backingFile: string } {
  return asked.backingFile !== undefined && asked.backingFile !== ''
}
