/**
 * A metadata table in memory (an L2 table, a refcount block, the L1 or refcount table) with the
 * bytes as they are on disk, and which pages of it have changed since they were written.
 */
import type { DebugEvent } from '../../block/debug.ts'
import { viewOf } from '../../bytes/view.ts'
import type { HostOffset } from './offsets.ts'

/** Metadata is written in pieces of this size: what a disk is sure to write at once, or more. */
const maxPageSize = 4096

/** Bytes of a table as they were at one moment, and where they belong. */
export interface TablePiece {
  readonly table: Table
  readonly offset: number
  readonly bytes: Uint8Array
  /** What blkdebug is told before it is written. */
  readonly events?: readonly DebugEvent[]
}

export class Table {
  readonly bytes: Uint8Array
  readonly view: DataView
  /** Where it lies in the file. Changes when a table moves to a larger place. */
  offset: HostOffset
  /**
   * Nothing on stable storage points at the table yet, so it may be written before what it refers
   * to is stable, and has to be before something points at it.
   */
  fresh: boolean
  /** Users that rely on its staying in the cache; each calls `unpin` in the end. */
  pins = 0
  /** Looked at since the cache last searched for a table to drop. */
  used = true
  /** Where the table enters itself while it has changes. */
  readonly #changed: Set<Table>
  readonly #pageSize: number
  /** One byte per page: 1 when it has changed. */
  readonly #pages: Uint8Array
  #dirtyPages = 0
  #retired = false

  /** `fresh` tables begin with every page to be written. */
  constructor(bytes: Uint8Array, offset: HostOffset, changed: Set<Table>, fresh: boolean) {
    this.bytes = bytes
    this.view = viewOf(bytes)
    this.offset = offset
    this.fresh = fresh
    this.#changed = changed
    this.#pageSize = Math.min(maxPageSize, bytes.length)
    this.#pages = new Uint8Array(Math.ceil(bytes.length / this.#pageSize))
    if (fresh) this.touchAll()
  }

  get dirty(): boolean {
    return this.#dirtyPages > 0
  }

  unpin(): void {
    this.pins--
  }

  /** Notes that the byte at `at` has changed. */
  touch(at: number): void {
    if (this.#retired) return
    const page = Math.floor(at / this.#pageSize)
    if (this.#pages[page] !== 0) return
    this.#pages[page] = 1
    if (this.#dirtyPages++ === 0) this.#changed.add(this)
  }

  touchRange(at: number, length: number): void {
    for (let from = at; from < at + length; from += this.#pageSize) this.touch(from)
    if (length > 0) this.touch(at + length - 1)
  }

  touchAll(): void {
    this.#pages.fill(1)
    this.#dirtyPages = this.#pages.length
    this.#changed.add(this)
  }

  /** Copies of what has changed, which counts as written from now on. */
  takeChanges(events?: readonly DebugEvent[]): TablePiece[] {
    const pieces: TablePiece[] = []
    for (let page = this.#pages.indexOf(1); page >= 0; ) {
      let end = this.#pages.indexOf(0, page)
      if (end < 0) end = this.#pages.length
      const bytes = this.bytes.slice(page * this.#pageSize, end * this.#pageSize)
      pieces.push({ table: this, offset: this.offset + page * this.#pageSize, bytes, events })
      page = this.#pages.indexOf(1, end)
    }
    this.#forgetChanges()
    return pieces
  }

  /** Undoes `takeChanges` for a piece that could not be written. */
  giveBack({ offset, bytes }: TablePiece): void {
    this.touchRange(offset - this.offset, bytes.length)
  }

  /** The table is not part of the image any more, and will never be written again. */
  retire(): void {
    this.#forgetChanges()
    this.#retired = true
  }

  #forgetChanges(): void {
    this.#pages.fill(0)
    this.#dirtyPages = 0
    this.#changed.delete(this)
  }
}
