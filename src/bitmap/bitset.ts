/**
 * A set of small integers as bits, in pages that exist only where bits differ: all-clear and
 * all-set pages take no memory, and searches pass over them whole. A set over the 64 KiB clusters
 * of a 16 TiB disk takes at most 33 MiB, and nothing to begin with.
 *
 * Searching for a member descends three levels, of which each has a bit for 32 words or a page of
 * the next one: which pages have members, which words of a page, which bits of a word.
 */
import { viewOf } from '../bytes/view.ts'

const pageBits = 2 ** 18
const pageWords = pageBits / 32
const summaryWords = pageWords / 32

class MixedPage {
  readonly words = new Uint32Array(pageWords)
  /** A bit for each word that has a member. */
  readonly summary = new Uint32Array(summaryWords)
}

/** A page of which every bit is set. */
const full = Symbol('full')
type Page = MixedPage | typeof full | undefined

export class Bitset {
  /** Members are 0 … `capacity` - 1. */
  readonly capacity: number
  readonly #pages: Page[]
  /** Members in each page. */
  readonly #counts: Uint32Array
  /** A bit for each page that has a member. */
  readonly #occupied: Uint32Array
  #size = 0

  constructor(capacity: number) {
    this.capacity = capacity
    this.#pages = new Array(Math.ceil(capacity / pageBits)).fill(undefined)
    this.#counts = new Uint32Array(this.#pages.length)
    this.#occupied = new Uint32Array(Math.ceil(this.#pages.length / 32))
  }

  /** Number of members. */
  get size(): number {
    return this.#size
  }

  has(index: number): boolean {
    const page = this.#pages[Math.floor(index / pageBits)]
    if (page === undefined || page === full) return page === full
    const bit = index % pageBits
    return (page.words[bit >>> 5] & (1 << (bit & 31))) !== 0
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
    if (start >= end) return end
    const first = Math.floor(start / pageBits)
    const inFirst = this.#nextInPage(first, start - first * pageBits)
    if (inFirst < pageBits) return Math.min(end, first * pageBits + inFirst)
    const number = nextBit(this.#occupied, first + 1)
    if (number * pageBits >= end) return end
    return Math.min(end, number * pageBits + this.#nextInPage(number, 0))
  }

  /** The first that is no member from `start` on, or `end`. */
  nextAbsent(start: number, end: number = this.capacity): number {
    for (let at = start; at < end; ) {
      const number = Math.floor(at / pageBits)
      const page = this.#pages[number]
      const pageStart = number * pageBits
      const limit = Math.min(end, pageStart + pageBits)
      if (page === undefined) return at
      if (page !== full) {
        const found = nextAbsentInPage(page, at - pageStart, limit - pageStart)
        if (found < limit - pageStart) return pageStart + found
      }
      at = limit
    }
    return end
  }

  /** Runs of members in `start` … `end` - 1, as [start, end), in order. */
  *runs(start = 0, end: number = this.capacity): Generator<readonly [number, number]> {
    let from = this.next(start, end)
    while (from < end) {
      const to = this.nextAbsent(from, end)
      yield [from, to]
      from = this.next(to, end)
    }
  }

  /** The same set within another capacity: members that do not fit are left out. */
  resized(capacity: number): Bitset {
    const made = new Bitset(capacity)
    const whole = Math.floor(Math.min(capacity, this.capacity) / pageBits)
    for (let number = 0; number < whole; number++) made.#adoptPage(number, this.#pages[number])
    const rest = whole * pageBits
    for (const [from, to] of this.runs(rest, Math.min(capacity, this.capacity))) made.add(from, to)
    return made
  }

  clone(): Bitset {
    return this.resized(this.capacity)
  }

  /**
   * Fills `target` with the bits from `firstBit` on, the lowest bit of a byte first; clear behind
   * the end of the set. `firstBit` and the length are multiples of 32 bits.
   */
  writeBits(firstBit: number, target: Uint8Array): void {
    const view = viewOf(target)
    for (let at = 0; at < target.length; at += 4) {
      view.setUint32(at, this.#wordAt(firstBit + at * 8), true)
    }
  }

  /** Adds the members whose bits are set; the reverse of `writeBits`. Bits behind the end are ignored. */
  addBits(firstBit: number, source: Uint8Array): void {
    const view = viewOf(source)
    for (let at = 0; at < source.length; at += 4) {
      let word = view.getUint32(at, true)
      const base = firstBit + at * 8
      while (word !== 0 && base < this.capacity) {
        const from = trailingZeroes(word)
        const ones = trailingZeroes(~(word >>> from))
        const to = Math.min(32, from + ones)
        this.add(base + from, Math.min(this.capacity, base + to))
        word = to === 32 ? 0 : (word & ~wordMask(from, to)) >>> 0
      }
    }
  }

  #wordAt(bit: number): number {
    if (bit >= this.capacity) return 0
    const number = Math.floor(bit / pageBits)
    const page = this.#pages[number]
    if (page === undefined) return 0
    if (page === full) return wordMask(0, Math.min(32, this.capacity - bit))
    return page.words[(bit - number * pageBits) >>> 5]
  }

  #adoptPage(number: number, page: Page): void {
    if (page === undefined) return
    if (page === full) {
      this.add(number * pageBits, (number + 1) * pageBits)
      return
    }
    const copy = new MixedPage()
    copy.words.set(page.words)
    copy.summary.set(page.summary)
    let count = 0
    for (const word of copy.words) count += countBits(word)
    this.#pages[number] = copy
    this.#counts[number] = count
    this.#size += count
    setBit(this.#occupied, number, true)
  }

  /** The first member of a page from `bit` on, relative to the page; `pageBits` when there is none. */
  #nextInPage(number: number, bit: number): number {
    const page = this.#pages[number]
    if (page === undefined) return pageBits
    return page === full ? bit : nextInPage(page, bit)
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
    const after = this.#counts[number]
    this.#size += after - before
    if ((after === 0) !== (before === 0)) setBit(this.#occupied, number, after > 0)
  }

  #materialise(number: number): MixedPage {
    const page = this.#pages[number]
    if (page !== undefined && page !== full) return page
    const made = new MixedPage()
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
function changeWords(page: MixedPage, start: number, end: number, member: boolean): number {
  const { words, summary } = page
  let change = 0
  for (let at = start; at < end; ) {
    const word = at >>> 5
    const to = Math.min(end - word * 32, 32)
    const mask = wordMask(at - word * 32, to)
    const before = words[word]
    const after = (member ? before | mask : before & ~mask) >>> 0
    if (after !== before) {
      words[word] = after
      change += countBits(after) - countBits(before)
      if (before === 0 || after === 0) setBit(summary, word, after !== 0)
    }
    at = word * 32 + to
  }
  return change
}

function nextInPage(page: MixedPage, start: number): number {
  const first = start >>> 5
  const hits = (page.words[first] & wordMask(start & 31, 32)) >>> 0
  if (hits !== 0) return first * 32 + trailingZeroes(hits)
  const word = nextBit(page.summary, first + 1)
  return word < pageWords ? word * 32 + trailingZeroes(page.words[word]) : pageBits
}

function nextAbsentInPage(page: MixedPage, start: number, end: number): number {
  for (let at = start; at < end; ) {
    const word = at >>> 5
    const to = Math.min(end - word * 32, 32)
    const hits = (~page.words[word] & wordMask(at - word * 32, to)) >>> 0
    if (hits !== 0) return word * 32 + trailingZeroes(hits)
    at = word * 32 + to
  }
  return end
}

/** The first bit from `start` on that is set, or a number behind the last one. */
function nextBit(words: Uint32Array, start: number): number {
  let word = start >>> 5
  if (word >= words.length) return words.length * 32
  let hits = (words[word] & wordMask(start & 31, 32)) >>> 0
  while (hits === 0) {
    if (++word === words.length) return words.length * 32
    hits = words[word]
  }
  return word * 32 + trailingZeroes(hits)
}

function setBit(words: Uint32Array, bit: number, set: boolean): void {
  if (set) words[bit >>> 5] |= 1 << (bit & 31)
  else words[bit >>> 5] &= ~(1 << (bit & 31))
}

/** Of a word that is not 0; 32 for 0. */
function trailingZeroes(word: number): number {
  return word === 0 ? 32 : 31 - Math.clz32(word & -word)
}

function countBits(word: number): number {
  let bits = word - ((word >>> 1) & 0x55555555)
  bits = (bits & 0x33333333) + ((bits >>> 2) & 0x33333333)
  return (((bits + (bits >>> 4)) & 0x0f0f0f0f) * 0x01010101) >>> 24
}
