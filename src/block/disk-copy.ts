/** What keeps a disk of one moment needs of the copy that is being made of it. */
import type { Bitset } from '../bitmap/bitset.ts'
import type { DirtyBitmap } from '../bitmap/dirty-bitmap.ts'
import type { Io } from './layer.ts'

export interface DiskCopy {
  /** Bytes; a power of two. */
  readonly clusterSize: number
  /** Bytes of the disk, as it was when the copy began. */
  readonly size: number
  /** Clusters still to be copied. */
  readonly todo: Bitset
  /** Called with the bytes that were dealt with. */
  onProgress: (bytes: number) => void
  /** Called with the bytes that were given up on. */
  onDismissed: (bytes: number) => void
  /** Before anything is copied: the clusters that are dirty are to be, and only they are kept. */
  select(bitmap: DirtyBitmap): void
  /** Whether a guest has to wait before it changes the range. */
  pending(offset: number, length: number): boolean
  /** What a guest waits for then: afterwards the range may be changed. Throws a `CopyError`. */
  preserve(offset: number, length: number, io: Io): Promise<void>
  /**
   * Copies what is left of the clusters that the range touches, and waits for what others are
   * copying of them. Throws a `CopyError`; those clusters then stay to be copied.
   */
  copy(offset: number, length: number, io: Io): Promise<void>
  /** Marks clusters, of which the caller knows that they read as zeroes, as such in the target. */
  copyZeroes(offset: number, length: number, io: Io): Promise<void>
  /** Gives up on clusters that need not be copied, unless somebody has copied them already. */
  dismiss(offset: number, length: number, io: Io): Promise<void>
  /** Settles when no copy is under way. */
  idle(): Promise<void>
}
