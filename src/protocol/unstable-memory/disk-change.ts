/** The changes that `UnstableMemory` logs, and what they do to the bytes. */
import type { SparseBytes } from '../sparse-bytes.ts'

/** What changed the disk, in order; `step` 1 is the first. */
export type Change =
  | {
      readonly kind: 'write'
      readonly offset: number
      readonly bytes: Uint8Array
      readonly fua: boolean
    }
  | {
      readonly kind: 'zero'
      readonly offset: number
      readonly length: number
      readonly fua: boolean
    }
  | { readonly kind: 'truncate'; readonly size: number }
  | { readonly kind: 'flush' }

/** Carries out one change; returns the size of the disk afterwards. */
export function applyChange(bytes: SparseBytes, size: number, change: Change): number {
  switch (change.kind) {
    case 'write':
      bytes.write(change.offset, change.bytes)
      return Math.max(size, change.offset + change.bytes.length)
    case 'zero':
      bytes.clear(change.offset, change.length)
      return Math.max(size, change.offset + change.length)
    case 'truncate':
      if (change.size < size) bytes.clear(change.size, size - change.size)
      return change.size
    case 'flush':
      return size
  }
}
