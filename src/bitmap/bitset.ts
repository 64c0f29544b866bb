/**
 * A set of small integers as bits, in pages that exist only where bits differ: all-clear and
 * all-set pages take no memory, and searches pass over them whole. A set over the 64 KiB clusters
 * of a 16 TiB disk takes at most 32 MiB, and nothing to begin with.
 */

const pageBits = 2 ** 18
const pageWords = pageBits / 32

/** A page of which every bit is set. */
const full = Symbol('full')
type Page = Uint32Array | typeof full | undefined

export class Bitset {
  /** Members are 0 … `capacity` - 1. */
  readonly capacity: number
  readonly #pages: Page[]
  /** Members in each page. */
  readonly #counts: Uint32Array
  #size = 0

  constructor(capacity: number) {
    this.capacity = capacity
    this.#pages = new Array(Math.ceil(capacity / pageBits)).fill(undefined)
    this.#counts = new Uint32Array(this.#pages.length)
  }

  /** Number of members. */
  get size(): number {
    return this.#size
  }

  has(index: number): boolean {
    const page = this.#pages[Math.floor(index / pageBits)]
    if (page === undefined || page === full) return page === full
    const bit = index % pageBits
    return (page[Math.floor(bit / 32)] & (1 << (bit % 32))) !== 0
  }

  /** Adds `start` … `end` - 1. */
  add(start: number, end: number): void {
    this.#change(start, end, true)
  }

  /** Removes `start` … `end` - 1. */
  delete(start: number, end: number): void {
    this.#change(start, end, false)
  }

  /** Whether any of `start` … `end` - 1 is a member. */
  any(start: number, end: number): boolean {
    return this.next(start, end) < end
  }

  /** The first member from `start` on, or `end` when there is none before it. */
  next(start: number, end: number = this.capacity): number {
    return this.#find(start, end, true)
  }

  /** The first that is no member from `start` on, or `end`. */
  nextAbsent(start: number, end: number = this.capacity): number {
    return this.#find(start, end, false)
  }

  #find(start: number, end: number, member: boolean): number {
    const skipped: Page = member ? undefined : full
    let at = start
    while (at < end) {
      const number = Math.floor(at / pageBits)
      const page = this.#pages[number]
      const pageStart = number * pageBits
      const limit = Math.min(end, pageStart + pageBits)
      if (page === skipped) {
        at = limit
      } else if (page === full || page === undefined) {
        return at
      } else {
        const found = findInPage(page, at - pageStart, limit - pageStart, member)
        if (found < limit - pageStart) return pageStart + found
        at = limit
      }
    }
    return end
  }

  #change(start: number, end: number, member: boolean): void {
    for (let at = start; at < end; ) {
      const number = Math.floor(at / pageBits)
      const pageStart = number * pageBits
      const limit = Math.min(end, pageStart + pageBits)
      this.#changePage(number, at - pageStart, limit - pageStart, member)
      at = limit
    }
  }

  #changePage(number: number, start: number, end: number, member: boolean): void {
    const bits = Math.min(pageBits, this.capacity - number * pageBits)
    const before = this.#counts[number]
    if (before === (member ? bits : 0)) return
    if (start === 0 && end === bits) {
      this.#pages[number] = member ? full : undefined
      this.#counts[number] = member ? bits : 0
    } else {
      const page = this.#materialise(number)
      this.#counts[number] = before + changeWords(page, start, end, member)
      if (this.#counts[number] === 0) this.#pages[number] = undefined
      else if (this.#counts[number] === bits) this.#pages[number] = full
    }
    this.#size += this.#counts[number] - before
  }

  #materialise(number: number): Uint32Array {
    const page = this.#pages[number]
    if (page !== undefined && page !== full) return page
    const made = new Uint32Array(pageWords)
    if (page === full) {
      const bits = Math.min(pageBits, this.capacity - number * pageBits)
      changeWords(made, 0, bits, true)
    }
    this.#pages[number] = made
    return made
  }
}

/** Bits `from` … `to` - 1 of one word, 0 <= from < to <= 32. */
function wordMask(from: number, to: number): number {
  const upper = to === 32 ? 0xffffffff : (1 << to) - 1
  return (upper & ~((1 << from) - 1)) >>> 0
}

/** Sets or clears bits; returns by how much the number of set bits changed. */
function changeWords(page: Uint32Array, start: number, end: number, member: boolean): number {
  let change = 0
  for (let at = start; at < end; ) {
    const word = Math.floor(at / 32)
    const to = Math.min(end - word * 32, 32)
    const mask = wordMask(at - word * 32, to)
    const before = page[word]
    const after = (member ? before | mask : before & ~mask) >>> 0
    page[word] = after
    change += countBits(after) - countBits(before)
    at = word * 32 + to
  }
  return change
}

function findInPage(page: Uint32Array, start: number, end: number, member: boolean): number {
  for (let at = start; at < end; ) {
    const word = Math.floor(at / 32)
    const to = Math.min(end - word * 32, 32)
    const wanted = member ? page[word] : ~page[word]
    const hits = (wanted & wordMask(at - word * 32, to)) >>> 0
    if (hits !== 0) return word * 32 + (31 - Math.clz32(hits & -hits))
    at = word * 32 + to
  }
  return end
}

function countBits(word: number): number {
  let bits = word - ((word >>> 1) & 0x55555555)
  bits = (bits & 0x33333333) + ((bits >>> 2) & 0x33333333)
  return (((bits + (bits >>> 4)) & 0x0f0f0f0f) * 0x01010101) >>> 24
}
