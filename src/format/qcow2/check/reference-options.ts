/** How references are counted: as they are found, or while they are mended. */
import type { HeaderState } from '../header-state.ts'
import type { Counts } from './counts.ts'
import type { References } from './references.ts'

export interface ReferenceOptions {
  /** Refcounts as the image has them, which the flags of entries are held against. */
  readonly stored: Counts
  /** Entries that contradict the format are made harmless; then the header may have to change. */
  readonly mend: HeaderState | undefined
  /** Where refcount blocks lie. */
  readonly blocks: Iterable<number>
  /** What was found without mending anything: tells tables from what is taken for one by mistake. */
  readonly before?: References
  /**
   * Everything is told as qemu-img tells it: L1 entries are followed however broken they are, and
   * references are told instead of counted when there are more than a refcount can say, which is
   * this number.
   */
  readonly most?: number
  /** Bitmaps that cannot be understood are passed over. */
  readonly anyBitmaps?: boolean
}
