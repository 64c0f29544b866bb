/** What is read, checked and put in order when an image is opened, opened for writing, or opened anew. */
import { type BlockLayer, plainIo } from '../../block/layer.ts'
import type { Faults } from './faults.ts'
import { autoclear, compatible, decodeHeader, type Header, headLength } from './header.ts'
import { checkHeader } from './header-check.ts'
import type { HeaderState } from './header-state.ts'
import { refuseLostTables } from './header-tables.ts'
import type { ImageFile } from './image-file.ts'
import type { ImageSettings } from './settings.ts'

/** Few images are ever checked. */
export const loadCheck = () => import('./check/check.ts')

/** The header sector: enough to learn how long the header area is. */
const firstRead = 512

/**
 * The header, checked. Refuses an image whose tables cannot be there, unless `settings` say that it is
 * opened to be repaired.
 */
export async function readHeader(
  layer: BlockLayer,
  settings: ImageSettings,
  faults: Faults,
): Promise<Header> {
  const start = new Uint8Array(Math.min(firstRead, layer.size))
  if (start.length > 0) await layer.read(0, start, plainIo)
  const head = new Uint8Array(headLength(start, layer.size))
  if (head.length > 0) await layer.read(0, head, plainIo)
  const header = decodeHeader(head, faults, settings.check === true && !settings.readOnly)
  checkHeader(header, faults)
  refuseLostTables(header, layer.size, faults, settings)
  return header
}

/** What has to be in order, and on disk, before anything is written. */
export async function prepareWriting(
  state: HeaderState,
  file: ImageFile,
  faults: Faults,
  { check = false }: ImageSettings,
): Promise<void> {
  const header = state.current
  refuseLostTables(header, file.size, faults, { readOnly: false, check })
  if (state.corruptBit && !check) {
    throw faults.refuse('CORRUPT_IMAGE', 'qcow2: Image is corrupt; cannot be opened read/write', 72)
  }
  // Whoever changes the image has to take away the marks of features that it does not know.
  header.autoclearFeatures &= autoclear.bitmaps | autoclear.rawExternalData
  const early = state.earlyChanges()
  if (early) {
    await state.write(early, file)
    await file.flush()
  }
  await file.complete()
  if (state.dirtyBit && !check) await repairCounts(state, file, faults)
}

/** The image was not closed, and its refcounts may be too low. They are put right first. */
async function repairCounts(state: HeaderState, file: ImageFile, faults: Faults): Promise<void> {
  const header = state.current
  const { checkImage } = await loadCheck()
  const result = await checkImage({ file, faults, header, state, repair: 'counts' })
  if (result.checkErrors === 0 && !state.dirtyBit) return
  throw faults.refuse(
    'CORRUPT_IMAGE',
    'the image was not closed properly and cannot be repaired by itself; check and repair it',
    72,
  )
}

/** Version 2 cannot say that a cluster has a place and reads as zeroes. */
export function checkKeeping(header: Header, settings: ImageSettings, faults: Faults): void {
  if (header.version >= 3 || !settings.keepDiscarded) return
  const message = 'discard-no-unref is only supported since qcow2 version 3'
  throw faults.refuse('INVALID_ARGUMENT', message)
}

export function checkLazy({ version }: Header, settings: ImageSettings, faults: Faults): void {
  if (version >= 3 || !settings.lazyRefcounts) return
  throw faults.refuse(
    'INVALID_ARGUMENT',
    'Lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level',
  )
}

export function isLazy(header: Header, settings: ImageSettings): boolean {
  const recorded = (header.compatibleFeatures & compatible.lazyRefcounts) !== 0n
  return header.version >= 3 && (settings.lazyRefcounts ?? recorded)
}
