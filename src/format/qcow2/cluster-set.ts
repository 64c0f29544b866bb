/**
 * A set of clusters of a file as bits, in pages that exist only where there are members: of any
 * size without being told one, and quick to ask whether a range has a member.
 */

const pageBits = 2 ** 15

export class ClusterSet {
  readonly #pages = new Map<number, Uint32Array>()

  add(first: number, count: number): void {
    for (let cluster = first; cluster < first + count; cluster++) {
      const page = this.#pageOf(cluster)
      const bit = cluster % pageBits
      page[bit >>> 5] |= 1 << (bit % 32)
    }
  }

  delete(first: number, count: number): void {
    for (let cluster = first; cluster < first + count; cluster++) {
      const page = this.#pages.get(Math.floor(cluster / pageBits))
      const bit = cluster % pageBits
      if (page) page[bit >>> 5] &= ~(1 << (bit % 32))
    }
  }

  has(cluster: number): boolean {
    const page = this.#pages.get(Math.floor(cluster / pageBits))
    const bit = cluster % pageBits
    return page !== undefined && (page[bit >>> 5] & (1 << (bit % 32))) !== 0
  }

  /** The first member among some consecutive clusters, or -1. */
  firstOf(first: number, count: number): number {
    const end = first + count
    for (let at = first; at < end; ) {
      const index = Math.floor(at / pageBits)
      const limit = Math.min(end, (index + 1) * pageBits)
      const page = this.#pages.get(index)
      if (page) {
        const found = firstIn(page, at - index * pageBits, limit - index * pageBits)
        if (found >= 0) return index * pageBits + found
      }
      at = limit
    }
    return -1
  }

  clear(): void {
    this.#pages.clear()
  }

  #pageOf(cluster: number): Uint32Array {
    const index = Math.floor(cluster / pageBits)
    const page = this.#pages.get(index)
    if (page) return page
    const made = new Uint32Array(pageBits / 32)
    this.#pages.set(index, made)
    return made
  }
}

/** The first bit that is set from `from` on, in front of `to`, or -1. */
function firstIn(page: Uint32Array, from: number, to: number): number {
  for (let at = from; at < to; ) {
    const word = page[at >>> 5] >>> (at % 32)
    if (word !== 0) {
      const found = at + 31 - Math.clz32(word & -word)
      return found < to ? found : -1
    }
    at = (at >>> 5) * 32 + 32
  }
  return -1
}
