/**
 * What may be on a disk after its power has failed. Every write gives its sectors a number of its
 * own; a sector may show the number that it had at the last flush, or that of any later write.
 */
import { expect } from 'vitest'
import { type BlockLayer, plainIo } from '../../src/block/layer.ts'

export const sectorSize = 512

interface Write {
  /** Changes of the storage that had been made when the write was begun. */
  readonly step: number
  readonly first: number
  readonly count: number
  readonly number: number
  /** In place of `number` where not all of it is the same: of each sector. */
  readonly numbers?: Uint32Array
}

const numberAt = ({ first, number, numbers }: Write, sector: number) =>
  numbers ? numbers[sector - first] : number

interface Flush {
  readonly step: number
  /** Writes, counted from the first, whose outcome is final. */
  readonly writes: number
  readonly content: Uint32Array
}

export class CrashModel {
  readonly #steps: () => number
  readonly #now: Uint32Array
  readonly #writes: Write[] = []
  readonly #flushes: Flush[] = []

  /** `steps` tells how many changes the storage has seen; `content`, what is on the disk. */
  constructor(size: number, steps: () => number, content?: Uint8Array) {
    this.#steps = steps
    this.#now = new Uint32Array(size / sectorSize)
    if (content) this.#now.set(numbersIn(content))
    this.#flushes.push({ step: 0, writes: 0, content: this.#now.slice() })
  }

  /** Notes a write that is about to begin, of zeroes if `zero`. Returns its bytes. */
  begin(offset: number, length: number, zero = false): Uint8Array {
    const number = zero ? 0 : this.#writes.length + 1
    const first = offset / sectorSize
    const count = length / sectorSize
    this.#writes.push({ step: this.#steps(), first, count, number })
    this.#now.fill(number, first, first + count)
    const bytes = new Uint8Array(length)
    new Uint32Array(bytes.buffer).fill(number)
    return bytes
  }

  /** What the disk shows now: the number of each sector. */
  get content(): Uint32Array {
    return this.#now.slice()
  }

  /** Notes that the whole disk is about to become what it was before. */
  beginRestore(numbers: Uint32Array): void {
    const write = { step: this.#steps(), first: 0, count: numbers.length, number: 0, numbers }
    this.#writes.push(write)
    this.#now.set(numbers)
  }

  /** Compares a disk, or a snapshot of it, with a content of before. */
  async expectContent(disk: BlockLayer, content: Uint32Array, note: string): Promise<void> {
    const found = await numbersOf(disk, content.length)
    const wrong = found.findIndex((number, sector) => number !== content[sector])
    expect(wrong, `${note}: a sector shows something else`).toBe(-1)
  }

  /** What to hand to `flushed` when a flush that is about to begin has succeeded. */
  beginFlush(): Omit<Flush, 'step'> {
    return { writes: this.#writes.length, content: this.#now.slice() }
  }

  flushed(begun: Omit<Flush, 'step'>): void {
    this.#flushes.push({ ...begun, step: this.#steps() })
  }

  /**
   * Compares a disk found after `step` changes, which may be shorter or longer, with what it may
   * show.
   */
  async expectPossible(disk: BlockLayer, step: number, note: string): Promise<void> {
    const flush = this.#flushes.findLast((candidate) => candidate.step <= step)!
    const later = this.#writes.slice(flush.writes).filter((write) => write.step <= step)
    const found = await numbersOf(disk, Math.min(this.#now.length, disk.size / sectorSize))
    for (let sector = 0; sector < found.length; sector++) {
      const number = found[sector]
      if (number === flush.content[sector]) continue
      const possible = later.some(
        (write) =>
          sector >= write.first &&
          sector < write.first + write.count &&
          numberAt(write, sector) === number,
      )
      if (!possible) {
        const numbers = later.filter((w) => sector >= w.first && sector < w.first + w.count)
        expect.fail(
          `${note}: sector ${sector} shows write ${number}; it had ${flush.content[sector]} at the ` +
            `last flush, and then ${numbers.map((write) => numberAt(write, sector)).join(', ') || 'no write'}`,
        )
      }
    }
  }

  /** Compares a disk that was closed with what was written last. */
  async expectFinal(disk: BlockLayer, note: string): Promise<void> {
    const found = await numbersOf(disk, this.#now.length)
    const wrong = found.findIndex((number, sector) => number !== this.#now[sector])
    expect(wrong, `${note}: a sector does not show the last write`).toBe(-1)
  }
}

/** The number in each sector; fails if a sector is not of one write. */
async function numbersOf(disk: BlockLayer, sectors: number): Promise<Uint32Array> {
  const bytes = new Uint8Array(sectors * sectorSize)
  await disk.read(0, bytes, plainIo)
  return numbersIn(bytes)
}

function numbersIn(bytes: Uint8Array): Uint32Array {
  const words = new Uint32Array(bytes.buffer)
  const perSector = sectorSize / 4
  const numbers = new Uint32Array(bytes.length / sectorSize)
  for (let sector = 0; sector < numbers.length; sector++) {
    numbers[sector] = words[sector * perSector]
    for (let at = 1; at < perSector; at++) {
      if (words[sector * perSector + at] !== numbers[sector]) {
        expect.fail(`sector ${sector} is a mixture of writes`)
      }
    }
  }
  return numbers
}
