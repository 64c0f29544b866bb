/**
 * Dirty bitmaps that an export shows, as contexts `qemu:dirty-bitmap:NAME`. While they are shown
 * nobody else may change them, apart from the guest's writes that they record.
 */
import type { DirtyBitmap } from '../../bitmap/dirty-bitmap.ts'
import { checkUsable } from '../../bitmap/usable.ts'
import { invalid } from '../../errors.ts'
import { findBitmap } from '../../graph/bitmap-actions.ts'
import { chainOf } from '../../graph/chain.ts'
import type { BlockNode } from '../../graph/node.ts'
import type { MetaContext } from './contexts.ts'

/** A bitmap of the exported node or one below it, by name; or of another node. */
export type ShownBitmap = string | { readonly node: BlockNode; readonly name: string }

/** The flag of a dirty run; clean ones have none. */
const NBD_STATE_DIRTY = 1

export class ShownBitmaps {
  readonly contexts: readonly MetaContext[]
  readonly #bitmaps: ReadonlySet<DirtyBitmap>

  /** Takes all of them, or throws and takes none. */
  constructor(node: BlockNode, shown: readonly ShownBitmap[], writable: boolean) {
    this.#bitmaps = new Set(shown.map((each) => bitmapFor(node, each, writable)))
    for (const bitmap of this.#bitmaps) bitmap.busy = 'an NBD export'
    this.contexts = [...this.#bitmaps].map(bitmapContext)
  }

  /** Others may work with them again. */
  release(): void {
    for (const bitmap of this.#bitmaps) bitmap.busy = undefined
  }
}

function bitmapContext(bitmap: DirtyBitmap): MetaContext {
  return {
    name: `qemu:dirty-bitmap:${bitmap.name}`,
    statusAt(offset, length) {
      const end = offset + length
      if (bitmap.has(offset)) {
        return { length: bitmap.nextClean(offset, end) - offset, flags: NBD_STATE_DIRTY }
      }
      const next = bitmap.nextDirty(offset, end)
      return { length: (next?.offset ?? end) - offset, flags: 0 }
    },
  }
}

function bitmapFor(node: BlockNode, shown: ShownBitmap, writable: boolean): DirtyBitmap {
  const [owner, bitmap] =
    typeof shown === 'string'
      ? searchBitmap(node, shown)
      : [shown.node, findBitmap(shown.node, shown.name)]
  checkUsable(bitmap, { readOnly: true })
  // What changes behind the export's back would make its answers worthless.
  if (!writable && !owner.readOnly && bitmap.enabled) {
    throw invalid(`Enabled bitmap '${bitmap.name}' incompatible with readonly export`)
  }
  return bitmap
}

/** In the node, what it filters, and its backing files; not behind a window of raw, where offsets differ. */
function searchBitmap(node: BlockNode, name: string): [BlockNode, DirtyBitmap] {
  for (const at of chainOf(node)) {
    const bitmap = at.bitmaps.get(name)
    if (bitmap) return [at, bitmap]
  }
  throw invalid(`Bitmap '${name}' is not found`)
}
