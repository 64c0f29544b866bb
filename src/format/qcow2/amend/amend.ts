/**
 * Changing options of an image, one after the other in an order in which each finds what it needs:
 * version 3 comes first and version 2 last. Everything that can be refused beforehand is, so that an
 * image is not left half amended; each step by itself survives a crash.
 */
import type { ResizingAmend, ResizingOptions } from '../../../block/cluster-map.ts'
import { cryptMethod } from '../encryption/place.ts'
import { backingFormat, compatible, incompatible } from '../header.ts'
import type { Qcow2Image } from '../image.ts'
import { checkNewSize } from '../resize.ts'
import { forgetRawDataFile, hasRawDataFile, renameDataFile } from './data-file.ts'
import { type Amendment, parseAmendment } from './options.ts'
import { changeRefcountWidth, checkRefcountWidth } from './refcount-width.ts'
import { checkDowngrade, downgrade, upgrade } from './version.ts'

export function imageAmend(image: Qcow2Image): ResizingAmend {
  return { run: (options) => amendImage(image, options) }
}

async function amendImage(image: Qcow2Image, options: ResizingOptions): Promise<void> {
  const { faults, header, writeBack } = image
  if (image.readOnly) throw faults.refuse('READ_ONLY', 'a read-only image cannot be amended')
  const wanted = parseAmendment(options.options)
  const report = options.onProgress ?? (() => {})
  await checkAmendment(image, wanted)
  // Nothing is pending in memory afterwards: counts are exact, the dirty bit is clear.
  await writeBack.finish()
  const { version = header.current.version, refcountBits } = wanted
  if (version > header.current.version) await upgrade(image)
  if (refcountBits !== undefined && refcountBits !== 2 ** header.current.refcountOrder) {
    await changeRefcountWidth(image, refcountBits, report)
  }
  if (wanted.dataFile !== undefined) await renameDataFile(image, wanted.dataFile)
  if (wanted.dataFileRaw === false) await forgetRawDataFile(image)
  if (wanted.lazyRefcounts !== undefined) await setLazyRefcounts(image, wanted.lazyRefcounts)
  if (wanted.keyslots) {
    await image.encryption?.amend({ ...options, options: wanted.keyslots })
  }
  if (wanted.size !== undefined) {
    checkNewSize(image, wanted.size)
    // Not of the tables alone: what is gained must not show what a backing file has there.
    await options.resize(wanted.size)
  }
  if (version < header.current.version) await downgrade(image, options)
}

async function checkAmendment(image: Qcow2Image, wanted: Amendment): Promise<void> {
  const { faults } = image
  const { current } = image.header
  const refuse = (message: string) => faults.refuse('INVALID_ARGUMENT', message)
  const bits = wanted.refcountBits ?? 2 ** current.refcountOrder
  const version = wanted.version ?? current.version
  if (wanted.keyslots && current.cryptMethod !== cryptMethod.luks) {
    throw current.cryptMethod === 0
      ? refuse("Can't amend encryption options - encryption not present")
      : refuse('Only LUKS encryption options can be amended')
  }
  const isLazy = (current.compatibleFeatures & compatible.lazyRefcounts) !== 0n
  const external = (current.incompatibleFeatures & incompatible.externalDataFile) !== 0n
  if (wanted.dataFile !== undefined && !external) {
    throw refuse('data-file can only be set for images that use an external data file')
  }
  if (wanted.dataFileRaw && !hasRawDataFile(image)) {
    throw refuse('data-file-raw cannot be set on existing images')
  }
  checkBacking(image, wanted)
  if (bits !== 16 && bits !== 2 ** current.refcountOrder && version < 3) {
    throw refuse(
      'Refcount widths other than 16 bits require compatibility level 1.1 or above ' +
        '(use compat=1.1 or greater)',
    )
  }
  if (wanted.lazyRefcounts && !isLazy && version < 3) {
    throw refuse(
      'Lazy refcounts only supported with compatibility level 1.1 and above ' +
        '(use compat=1.1 or greater)',
    )
  }
  if (version < current.version && current.cryptMethod === cryptMethod.aes) {
    // Zeroes might have to be stored, and their place on the disk, by which AES goes, is not known.
    const message = 'Images with AES encryption cannot be downgraded to version 2'
    throw faults.refuse('UNSUPPORTED', message)
  }
  if (version < current.version) await checkDowngrade(image, bits, wanted.size ?? current.size)
  if (wanted.refcountBits !== undefined) await checkRefcountWidth(image, bits)
}

/** It is for `rebase` to change, which knows what the two backing files show. */
function checkBacking(image: Qcow2Image, { backingFile, backingFormat: format }: Amendment): void {
  if (backingFile === undefined && format === undefined) return
  const { current } = image.header
  if (backingFile === current.backingFile && format === backingFormat(current)) return
  throw image.faults.refuse('INVALID_ARGUMENT', 'Cannot amend the backing file')
}

async function setLazyRefcounts(image: Qcow2Image, lazy: boolean): Promise<void> {
  const { header, writeBack } = image
  const others = header.current.compatibleFeatures & ~compatible.lazyRefcounts
  header.current.compatibleFeatures = lazy ? others | compatible.lazyRefcounts : others
  await writeBack.finish()
}
