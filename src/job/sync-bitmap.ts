/**
 * What a backup or a mirror does with the dirty bitmap that it was given. While it runs the bitmap
 * stays as it was in the beginning, and what guests write goes to a successor. In the end the bitmap
 * says what the next incremental backup has to copy, whatever has happened:
 *
 * | mode         | after success        | after failure                            |
 * |--------------|----------------------|------------------------------------------|
 * | `on-success` | what changed since   | what it said before and what changed     |
 * | `always`     | what changed since   | what changed since and was not copied    |
 * | `never`      | what it said before and what changed | the same                 |
 *
 * A backup is of its beginning, so "since" begins there. A mirror follows what guests write until its
 * end: nothing has changed since then, and what differs still is what it has not copied.
 */
import type { DirtyBitmap } from '../bitmap/dirty-bitmap.ts'
import type { DiskCopy } from '../block/disk-copy.ts'
import type { ByteRange } from '../bytes/range.ts'
import type { BitmapTable } from '../graph/bitmap-table.ts'

export type BitmapMode = 'on-success' | 'never' | 'always'

export class SyncBitmap {
  readonly bitmap: DirtyBitmap
  readonly #table: BitmapTable
  readonly #mode: BitmapMode
  readonly #what: string

  /** The bitmap is in `table`; `what` is how messages name the job. */
  constructor(table: BitmapTable, bitmap: DirtyBitmap, mode: BitmapMode, what: string) {
    this.#table = table
    this.bitmap = bitmap
    this.#mode = mode
    this.#what = what
  }

  /** The moment of the beginning. Nobody else may work with the bitmap from now on. */
  freeze(): void {
    this.bitmap.freeze(this.#what)
  }

  /** Ends a backup, once; without `freeze` before it does nothing. */
  end(succeeded: boolean, copy: Pick<DiskCopy, 'todo' | 'clusterSize'>): void {
    if (!this.#succeed(succeeded)) return
    // Whatever was passed over, for whatever reason, is for the next backup to copy.
    for (const [from, to] of copy.todo.runs()) {
      const offset = from * copy.clusterSize
      this.bitmap.add(offset, Math.min(this.bitmap.size, to * copy.clusterSize) - offset)
    }
  }

  /** Ends a mirror, once, in the moment in which it ceases to follow; `left` differs. */
  endFollowed(succeeded: boolean, left: Iterable<ByteRange>): void {
    if (!this.#succeed(succeeded)) return
    this.bitmap.clear()
    for (const { offset, length } of left) this.bitmap.add(offset, length)
  }

  /** Lets the successor take over, or not; returns whether it has. */
  #succeed(succeeded: boolean): boolean {
    const { bitmap } = this
    if (!bitmap.frozen) return false
    const goOn = this.#mode === 'always' || (this.#mode === 'on-success' && succeeded)
    if (!goOn) {
      bitmap.reclaim()
      return false
    }
    bitmap.abdicate()
    this.#table.renew(bitmap)
    return true
  }
}
