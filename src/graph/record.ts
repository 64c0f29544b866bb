/** Changing what images record of their backing files, all of them or none. */
import { plainIo } from '../block/layer.ts'
import { filenameOf, skipFilters } from './chain.ts'
import type { BlockNode } from './node.ts'

export interface BackingRecord {
  readonly filename: string
  readonly format?: string
}

/** How an image is recorded as a backing file; `filename` unless its own is meant. */
export function recordOf(image: BlockNode, filename?: string): BackingRecord {
  const below = skipFilters(image)
  return { filename: filename ?? filenameOf(below), format: below.driver }
}

/**
 * Changes the records of images that can have one. Returns how to put the former ones back; when
 * this rejects that has been done.
 */
export async function changeRecords(
  images: readonly BlockNode[],
  to: BackingRecord | undefined,
): Promise<() => Promise<void>> {
  const undo: (() => Promise<void>)[] = []
  const putBack = async () => {
    for (const step of undo.splice(0).reverse()) await step()
  }
  try {
    for (const { layer } of images) {
      const { backingLink } = layer
      if (!backingLink) continue
      const { recorded } = backingLink
      undo.push(() => backingLink.change(recorded, plainIo))
      await backingLink.change(to, plainIo)
    }
  } catch (error) {
    await putBack().catch(() => {})
    throw error
  }
  return putBack
}
