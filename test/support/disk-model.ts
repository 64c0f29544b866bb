/**
 * What a guest's disk must hold. After a write that failed each sector of it may hold what it held
 * before or what was written; whichever is found first is what it must hold from then on.
 */
import { expect } from 'vitest'

const sectorSize = 512

export class DiskModel {
  #bytes: Buffer
  /** What else a sector may hold, by its offset. */
  readonly #doubts = new Map<number, Buffer[]>()

  constructor(size: number) {
    this.#bytes = Buffer.alloc(size)
  }

  get size(): number {
    return this.#bytes.length
  }

  /** A copy; only where nothing is in doubt. */
  get content(): Buffer {
    expect(this.#doubts.size).toBe(0)
    return Buffer.from(this.#bytes)
  }

  grow(size: number): void {
    this.#bytes = Buffer.concat([this.#bytes, Buffer.alloc(size - this.size)])
  }

  /** A write begins; `data` is whole sectors. The answer is for when it has failed. */
  write(offset: number, data: Uint8Array): () => void {
    const before = Buffer.from(this.#bytes.subarray(offset, offset + data.length))
    const doubts = new Map<number, Buffer[]>()
    for (let at = offset; at < offset + data.length; at += sectorSize) {
      const found = this.#doubts.get(at)
      if (!found) continue
      doubts.set(at, found)
      this.#doubts.delete(at)
    }
    this.#bytes.set(data, offset)
    return () => {
      for (let at = 0; at < data.length; at += sectorSize) {
        const old = before.subarray(at, at + sectorSize)
        this.#doubts.set(offset + at, [...(doubts.get(offset + at) ?? []), old])
      }
    }
  }

  /** Fails unless `found` is what is at `offset`. */
  check(found: Uint8Array, offset: number, what: string): void {
    const { length } = found
    if (this.#doubts.size > 0) this.#settle(found, offset)
    expectSame(found, this.#bytes.subarray(offset, offset + length), what, offset)
  }

  #settle(found: Uint8Array, offset: number): void {
    for (const [at, others] of this.#doubts) {
      if (at < offset || at >= offset + found.length) continue
      const sector = found.subarray(at - offset, at - offset + sectorSize)
      if (others.some((other) => other.equals(sector))) this.#bytes.set(sector, at)
      this.#doubts.delete(at)
    }
  }
}

export function expectSame(found: Uint8Array, expected: Uint8Array, what: string, start = 0): void {
  if (Buffer.compare(found, expected) === 0) return
  const differs = (byte: number, index: number) => byte !== found[index]
  const at = expected.findIndex(differs)
  const last = expected.findLastIndex(differs)
  expect.fail(
    `${what} (${found.length} bytes, ${expected.length} expected) differs from ` +
      `${start + at} to ${start + last}: ${found[at]} instead of ${expected[at]}`,
  )
}
