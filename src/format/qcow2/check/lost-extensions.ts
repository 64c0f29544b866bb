/**
 * Repair of header extensions that cannot be followed any more: they end where that begins, and what lay
 * behind is given up. Feature names explain only, and bitmaps can be made anew. The format of a backing
 * file is not guessed: what a guest has written there could then choose how it is read. Without the
 * record of its key material an encrypted image is not opened in the first place, nor one whose data
 * file nobody names.
 */
import type { BlockError } from '../../../errors.ts'
import { encodeExtensions, extensionType } from '../extensions.ts'
import type { Faults } from '../faults.ts'
import { autoclear, backingFormat, type Header } from '../header.ts'
import type { CheckRequest } from './check.ts'
import type { Report } from './report.ts'

/** Throws, before anything is written, where something is lost that cannot be done without. */
export function checkExtensions(header: Header, faults: Faults): void {
  const { brokenExtension, backingFile } = header
  if (!brokenExtension || backingFile === undefined || backingFormat(header) !== undefined) return
  throw formatLost(brokenExtension.error, faults)
}

export async function endExtensions({ state, file }: CheckRequest, report: Report): Promise<void> {
  const { current } = state
  const { brokenExtension, extensions } = current
  if (!brokenExtension) return
  const { offset, error } = brokenExtension
  const lost = 'it and what lies behind it is given up'
  report.corruption(`header extension at ${offset}: ${error.message}; ${lost}`, true)
  // The mark is aligned, so that no disk tears it.
  await file.write(offset, encodeExtensions([]))
  if (!extensions.some(({ type }) => type === extensionType.bitmaps)) {
    current.autoclearFeatures &= ~autoclear.bitmaps
    await state.write({ ...current }, file)
  }
  await file.flush()
  delete current.brokenExtension
}

function formatLost({ message }: BlockError, faults: Faults): BlockError {
  const reason = 'with it the format of the backing file is lost, which is not guessed'
  return faults.refuse('CORRUPT_IMAGE', `${message}; ${reason}`)
}
