/**
 * Bytes of any length in memory, of which only the pages that were written take room. What was
 * never written reads as zeroes. There is no end here: whoever uses it knows the size.
 */
import { alignDown, alignUp, type ByteRange } from '../bytes/range.ts'

/** Large enough that a gigabyte is few objects, small enough that sparse disks stay small. */
export const pageSize = 64 * 1024

export interface Run extends ByteRange {
  /** Whether the bytes were written, as opposed to zero for want of a page. */
  readonly present: boolean
}

export class SparseBytes {
  readonly #pages: Map<number, Uint8Array>
  /** Pages that a copy has too: they are copied before they change. */
  #shared: Set<number>

  constructor() {
    this.#pages = new Map()
    this.#shared = new Set()
  }

  /** Bytes of memory that the pages take. */
  get allocated(): number {
    return this.#pages.size * pageSize
  }

  read(offset: number, target: Uint8Array): void {
    const { length } = target
    for (let at = 0; at < length; ) {
      const inPage = (offset + at) % pageSize
      const part = Math.min(pageSize - inPage, length - at)
      const page = this.#pages.get((offset + at - inPage) / pageSize)
      if (page) target.set(page.subarray(inPage, inPage + part), at)
      else target.fill(0, at, at + part)
      at += part
    }
  }

  write(offset: number, source: Uint8Array): void {
    const { length } = source
    for (let at = 0; at < length; ) {
      const inPage = (offset + at) % pageSize
      const part = Math.min(pageSize - inPage, length - at)
      this.#page((offset + at - inPage) / pageSize).set(source.subarray(at, at + part), inPage)
      at += part
    }
  }

  /** Makes the range read as zeroes and gives whole pages back. */
  clear(offset: number, length: number): void {
    const end = offset + length
    const firstWhole = Math.min(alignUp(offset, pageSize), end)
    const lastWhole = Math.max(alignDown(end, pageSize), firstWhole)
    this.#fillZero(offset, firstWhole)
    this.#drop(firstWhole / pageSize, lastWhole / pageSize)
    this.#fillZero(lastWhole, end)
  }

  /** The first run of written or never written bytes at `offset`; length > 0. */
  runAt(offset: number, length: number): Run {
    const index = Math.floor(offset / pageSize)
    const last = Math.floor((offset + length - 1) / pageSize)
    const present = this.#pages.has(index)
    const next = present ? this.#nextAbsent(index, last) : this.#nextPresent(index, last)
    const end = Math.min(next * pageSize, offset + length)
    return { offset, length: end - offset, present }
  }

  /** Both keep the same pages until one of them changes one: a copy costs little. */
  copy(): SparseBytes {
    const copy = new SparseBytes()
    for (const [index, page] of this.#pages) {
      copy.#pages.set(index, page)
      copy.#shared.add(index)
    }
    this.#shared = new Set(this.#pages.keys())
    return copy
  }

  /** The page, to be written into. */
  #page(index: number): Uint8Array {
    const page = this.#pages.get(index)
    if (page && !this.#shared.has(index)) return page
    const own = page?.slice() ?? new Uint8Array(pageSize)
    this.#pages.set(index, own)
    this.#shared.delete(index)
    return own
  }

  /** Zeroes [`start`, `end`), which lies within one page. */
  #fillZero(start: number, end: number): void {
    const inPage = start % pageSize
    const index = (start - inPage) / pageSize
    if (start >= end || !this.#pages.has(index)) return
    this.#page(index).fill(0, inPage, inPage + end - start)
  }

  #drop(first: number, end: number): void {
    if (end - first <= this.#pages.size) {
      for (let index = first; index < end; index++) this.#dropPage(index)
      return
    }
    for (const index of this.#pages.keys()) {
      if (index >= first && index < end) this.#dropPage(index)
    }
  }

  #dropPage(index: number): void {
    this.#pages.delete(index)
    this.#shared.delete(index)
  }

  #nextAbsent(index: number, last: number): number {
    let next = index + 1
    while (next <= last && this.#pages.has(next)) next++
    return next
  }

  /** Looks ahead page by page, but not longer than it takes to look at all pages that exist. */
  #nextPresent(index: number, last: number): number {
    const lookAhead = Math.min(last, index + this.#pages.size)
    for (let next = index + 1; next <= lookAhead; next++) {
      if (this.#pages.has(next)) return next
    }
    let nearest = last + 1
    for (const other of this.#pages.keys()) {
      if (other > lookAhead && other < nearest) nearest = other
    }
    return nearest
  }
}
