/** A set of pages, one bit each. */
export class PageSet {
  readonly #words: Uint32Array
  #size = 0

  constructor(capacity: number) {
    this.#words = new Uint32Array(Math.ceil(capacity / 32))
  }

  get size(): number {
    return this.#size
  }

  has(page: number): boolean {
    return (this.#words[Math.floor(page / 32)] & (1 << (page % 32))) !== 0
  }

  /** Whether it was not in the set before. */
  add(page: number): boolean {
    const index = Math.floor(page / 32)
    const bit = 1 << (page % 32)
    if ((this.#words[index] & bit) !== 0) return false
    this.#words[index] |= bit
    this.#size++
    return true
  }

  delete(page: number): void {
    const index = Math.floor(page / 32)
    const bit = 1 << (page % 32)
    if ((this.#words[index] & bit) === 0) return
    this.#words[index] &= ~bit
    this.#size--
  }

  /** The first page from `start` on, below `end`, that is not in the set; `end` if there is none. */
  nextMissing(start: number, end: number): number {
    for (let page = start; page < end; page++) {
      if (page % 32 === 0 && this.#words[page / 32] === 0xffffffff) page += 31
      else if (!this.has(page)) return page
    }
    return end
  }
}
