/**
 * A guest: an NBD client that keeps several writes in flight, remembers what it wrote, and how
 * long each write had to wait.
 *
 * Each of its workers has regions of its own, so that no two writes in flight touch the same
 * block and what a block must hold is known at any time.
 */
import type { Edge } from '../src/graph/edge.ts'

export const blockSize = 4096
const regionBlocks = 64
const maxWriteBlocks = 16

/** What happened between two looks. */
export interface Span {
  readonly writes: number
  readonly bytes: number
  readonly seconds: number
  /** Milliseconds that the slowest write took. */
  readonly longestMs: number
  /** Milliseconds that 99 of 100 writes stayed below. */
  readonly mostMs: number
}

export class Guest {
  readonly #disk: Edge
  readonly #workers: number
  /** What was written to each block last: a number that its content is made of; 0 is nothing. */
  readonly #written: Uint32Array
  readonly #random: () => number
  #serial = 0
  #waits: number[] = []
  #bytes = 0
  #since = 0
  #stop = false
  #running: Promise<unknown> | undefined

  /** `random` returns fractions from 0 to 1. */
  constructor(disk: Edge, workers: number, random: () => number) {
    this.#disk = disk
    this.#workers = workers
    this.#random = random
    this.#written = new Uint32Array(Math.floor(disk.size / blockSize))
  }

  /** Begins to write at random places within `[from, to)`, in bytes. */
  start(from: number, to: number): void {
    this.#stop = false
    this.#waits = []
    this.#bytes = 0
    this.#since = performance.now()
    const first = Math.ceil(from / blockSize / regionBlocks)
    const end = Math.floor(to / blockSize / regionBlocks)
    const workers = Array.from({ length: this.#workers }, (_, worker) =>
      this.#work(worker, first, end),
    )
    this.#running = Promise.all(workers)
    // Whoever calls `pause` hears of it.
    this.#running.catch(() => {})
  }

  /** Overwrites the first blocks: where a file system keeps its superblock. Before `start`. */
  async strike(): Promise<void> {
    await this.#write(0, Buffer.alloc(maxWriteBlocks * blockSize))
  }

  /** Lets the writes in flight end; tells what happened since `start`. */
  async pause(): Promise<Span> {
    this.#stop = true
    await this.#running
    const waits = this.#waits.toSorted((a, b) => a - b)
    return {
      writes: waits.length,
      bytes: this.#bytes,
      seconds: (performance.now() - this.#since) / 1000,
      longestMs: waits.at(-1) ?? 0,
      mostMs: waits[Math.floor(waits.length * 0.99)] ?? 0,
    }
  }

  /** Reads back what was written; the offset of the first block that holds something else. */
  async firstLost(): Promise<number | undefined> {
    const read = Buffer.alloc(regionBlocks * blockSize)
    const expected = Buffer.alloc(blockSize)
    for (let block = 0; block < this.#written.length; block += regionBlocks) {
      const count = Math.min(regionBlocks, this.#written.length - block)
      if (!this.#written.subarray(block, block + count).some((seed) => seed !== 0)) continue
      await this.#disk.read(block * blockSize, read.subarray(0, count * blockSize))
      for (let index = 0; index < count; index++) {
        const seed = this.#written[block + index]
        if (seed === 0) continue
        fillBlock(expected, seed, block + index)
        const found = read.subarray(index * blockSize, (index + 1) * blockSize)
        if (!found.equals(expected)) return (block + index) * blockSize
      }
    }
    return undefined
  }

  async #work(worker: number, first: number, end: number): Promise<void> {
    const regions = Math.floor((end - first - worker + this.#workers - 1) / this.#workers)
    const buffer = Buffer.alloc(maxWriteBlocks * blockSize)
    while (!this.#stop && regions > 0) {
      const region = first + worker + this.#below(regions) * this.#workers
      const count = 1 + this.#below(maxWriteBlocks)
      const block = region * regionBlocks + this.#below(regionBlocks - count + 1)
      await this.#write(block, buffer.subarray(0, count * blockSize))
    }
  }

  async #write(block: number, content: Buffer): Promise<void> {
    for (let at = 0; at < content.length; at += blockSize) {
      const index = block + at / blockSize
      // Odd, so never 0, and different from what was there before.
      const seed = (this.#serial++ * 2 + 1) >>> 0
      this.#written[index] = seed
      fillBlock(content.subarray(at, at + blockSize), seed, index)
    }
    const begin = performance.now()
    await this.#disk.write(block * blockSize, content)
    this.#waits.push(performance.now() - begin)
    this.#bytes += content.length
  }

  #below(limit: number): number {
    return Math.floor(this.#random() * limit)
  }
}

const mark = Buffer.alloc(16)

/** Content that no file system has, different for each write and place. */
function fillBlock(block: Buffer, seed: number, index: number): void {
  mark.write('guest', 0)
  mark.writeUInt32LE(seed, 8)
  mark.writeUInt32LE(index, 12)
  block.fill(mark)
}
