/** Which pages are still to be sent, and in which pieces. */
import { alignDown, MiB } from '../../bytes/range.ts'
import type { PlacedBlock } from '../image/layout.ts'
import type { SnapshotReader } from '../image/snapshot-reader.ts'
import { PageSet } from '../page-set.ts'

/** Pages of one block that are read together. */
export interface Piece {
  readonly block: number
  /** Bytes in the block. */
  readonly offset: number
  readonly length: number
}

/** Bytes of one piece while the guest does not run, and while it waits for pages. */
export const precopyPiece: number = MiB
export const postcopyPiece: number = 256 * 1024

export class RamPlan {
  readonly pageSize: number
  readonly blocks: readonly PlacedBlock[]
  readonly #snapshot: SnapshotReader
  readonly #sent: PageSet
  /** Where the pieces in order go on. */
  #block = 0
  #offset = 0

  constructor(snapshot: SnapshotReader) {
    this.#snapshot = snapshot
    this.pageSize = snapshot.pageSize
    this.blocks = snapshot.blocks
    const last = this.blocks.at(-1)
    this.#sent = new PageSet(last ? (last.base + last.usedLength) / this.pageSize : 0)
  }

  /** The next piece in order. `length` is rounded up to whole host pages. */
  next(length: number): Piece | undefined {
    for (; this.#block < this.blocks.length; this.#block++, this.#offset = 0) {
      const block = this.blocks[this.#block]
      if (!this.#snapshot.isSent(this.#block) || this.#offset >= block.usedLength) continue
      const offset = this.#offset
      this.#offset = Math.min(block.usedLength, offset + Math.max(length, this.unitOf(this.#block)))
      return { block: this.#block, offset, length: this.#offset - offset }
    }
    return undefined
  }

  /** What of each block comes after the switch to postcopy. */
  *left(): Generator<{ readonly block: PlacedBlock; readonly offset: number; length: number }> {
    for (const [index, block] of this.blocks.entries()) {
      if (!this.#snapshot.isSent(index)) continue
      const done = index < this.#block ? block.usedLength : 0
      const offset = index === this.#block ? this.#offset : done
      yield { block, offset, length: block.usedLength - offset }
    }
  }

  /** Begins from the start again, with what was not sent. */
  restart(): void {
    this.#block = 0
    this.#offset = 0
  }

  /** Bytes of a host page: its target pages are sent together and in order. */
  unitOf(block: number): number {
    return Math.max(this.pageSize, this.blocks[block].pageSize ?? 0)
  }

  /** The whole units that a request touches. */
  requested(block: number, offset: number, length: number): Piece {
    const unit = this.unitOf(block)
    const start = alignDown(offset, unit)
    const end = Math.min(this.blocks[block].usedLength, offset + Math.max(1, length))
    return { block, offset: start, length: Math.ceil((end - start) / unit) * unit }
  }

  /** Marks a page, counted on the disk, as sent; false where it was before. */
  takePage(page: number): boolean {
    return this.#sent.add(page)
  }

  markSent(block: number, offset: number): void {
    this.#sent.add((this.blocks[block].base + offset) / this.pageSize)
  }

  /** Whether nothing of a piece has to be sent any more. */
  isDone({ block, offset, length }: Piece): boolean {
    const first = (this.blocks[block].base + offset) / this.pageSize
    const end = first + length / this.pageSize
    return this.#sent.nextMissing(first, end) === end
  }
}
