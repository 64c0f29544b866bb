/**
 * Marks on single clusters of a file: a set of bits for each that has any. Metadata is sparse (an
 * L2 table for 8192 clusters of data), so this is a hash table in flat memory: 20 to 40 bytes for a
 * marked cluster, wherever it lies, and a look at one takes some nanoseconds.
 */

const minSlots = 64
/** 2^32 divided by the golden ratio, which spreads neighbouring numbers. */
const spread = 0x9e3779b1

export class ClusterMarks {
  /** Cluster and one more; 0 where nothing was ever kept. */
  #keys = new Float64Array(minSlots)
  #marks = new Uint16Array(minSlots)
  /** Slots that are or were in use: their marks may be gone, but a search goes on behind them. */
  #used = 0

  /** The bits of a cluster; 0 for none. */
  of(cluster: number): number {
    return this.#marks[this.#slotOf(cluster)]
  }

  add(first: number, count: number, bit: number): void {
    for (let cluster = first; cluster < first + count; cluster++) {
      let slot = this.#slotOf(cluster)
      if (this.#keys[slot] === 0) {
        if (this.#used * 2 >= this.#keys.length) {
          this.#grow()
          slot = this.#slotOf(cluster)
        }
        this.#keys[slot] = cluster + 1
        this.#used++
      }
      this.#marks[slot] |= bit
    }
  }

  /** Takes bits off; all unless given. */
  delete(first: number, count: number, bits = 0xffff): void {
    for (let cluster = first; cluster < first + count; cluster++) {
      const slot = this.#slotOf(cluster)
      if (this.#keys[slot] !== 0) this.#marks[slot] &= ~bits
    }
  }

  /** The first of some consecutive clusters with any of `bits`, or -1. */
  firstOf(first: number, count: number, bits = 0xffff): number {
    if (count > this.#keys.length) return this.#firstAmongAll(first, count, bits)
    for (let cluster = first; cluster < first + count; cluster++) {
      if ((this.#marks[this.#slotOf(cluster)] & bits) !== 0) return cluster
    }
    return -1
  }

  clear(): void {
    this.#keys = new Float64Array(minSlots)
    this.#marks = new Uint16Array(minSlots)
    this.#used = 0
  }

  /** Where a cluster is kept, or would be. */
  #slotOf(cluster: number): number {
    const keys = this.#keys
    const mask = keys.length - 1
    const key = cluster + 1
    const high = Math.floor(key / 2 ** 32)
    let slot = (Math.imul((key % 2 ** 32) ^ high, spread) >>> 7) & mask
    while (keys[slot] !== 0 && keys[slot] !== key) slot = (slot + 1) & mask
    return slot
  }

  #firstAmongAll(first: number, count: number, bits: number): number {
    let found = -1
    for (let slot = 0; slot < this.#keys.length; slot++) {
      const cluster = this.#keys[slot] - 1
      if ((this.#marks[slot] & bits) === 0 || cluster < first || cluster >= first + count) continue
      if (found < 0 || cluster < found) found = cluster
    }
    return found
  }

  #grow(): void {
    const keys = this.#keys
    const marks = this.#marks
    const live = marks.reduce((sum, mark) => sum + (mark === 0 ? 0 : 1), 0)
    const slots = live * 4 > keys.length ? keys.length * 2 : keys.length
    this.#keys = new Float64Array(slots)
    this.#marks = new Uint16Array(slots)
    this.#used = 0
    for (let old = 0; old < keys.length; old++) {
      if (marks[old] === 0) continue
      const slot = this.#slotOf(keys[old] - 1)
      this.#keys[slot] = keys[old]
      this.#marks[slot] = marks[old]
      this.#used++
    }
  }
}
