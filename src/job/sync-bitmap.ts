/**
 * What a backup does with the dirty bitmap that it was given. While the backup runs the bitmap stays
 * as it was at its moment, and what guests write goes to a successor. In the end the bitmap says what
 * the next incremental backup has to copy, whatever has happened:
 *
 * | mode         | after success        | after failure                            |
 * |--------------|----------------------|------------------------------------------|
 * | `on-success` | what changed since   | what it said before and what changed     |
 * | `always`     | what changed since   | what changed since and was not copied    |
 * | `never`      | what it said before and what changed | the same                 |
 */
import type { DirtyBitmap } from '../bitmap/dirty-bitmap.ts'
import type { DiskCopy } from '../block/disk-copy.ts'
import type { BitmapTable } from '../graph/bitmap-table.ts'

export type BitmapMode = 'on-success' | 'never' | 'always'

export class SyncBitmap {
  readonly bitmap: DirtyBitmap
  readonly #table: BitmapTable
  readonly #mode: BitmapMode
  readonly #what: string

  /** The bitmap is in `table`; `what` is how messages name the backup. */
  constructor(table: BitmapTable, bitmap: DirtyBitmap, mode: BitmapMode, what: string) {
    this.#table = table
    this.bitmap = bitmap
    this.#mode = mode
    this.#what = what
  }

  /** The moment that is backed up. Nobody else may work with the bitmap from now on. */
  freeze(): void {
    this.bitmap.freeze(this.#what)
  }

  /** Ends the backup, once; without `freeze` before it does nothing. */
  end(succeeded: boolean, copy: Pick<DiskCopy, 'todo' | 'clusterSize'>): void {
    const { bitmap } = this
    if (!bitmap.frozen) return
    const goOn = this.#mode === 'always' || (this.#mode === 'on-success' && succeeded)
    if (!goOn) {
      bitmap.reclaim()
      return
    }
    bitmap.abdicate()
    this.#table.renew(bitmap)
    // Whatever was passed over, for whatever reason, is for the next backup to copy.
    for (const [from, to] of copy.todo.runs()) {
      const offset = from * copy.clusterSize
      bitmap.add(offset, Math.min(bitmap.size, to * copy.clusterSize) - offset)
    }
  }
}
