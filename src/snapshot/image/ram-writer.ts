/**
 * Puts pages of RAM into the image as they come. Pages are gathered in chunks of 1 MiB, each of
 * which becomes one write as a rule; the last content of a page is what counts, be it zeroes.
 * Where a chunk is written again, its writes follow each other.
 */
import type { BlockLayer, Completion } from '../../block/layer.ts'
import { plainIo, plainWriteIo } from '../../block/layer.ts'
import { alignDown } from '../../bytes/range.ts'
import { isZero } from '../../bytes/zero.ts'
import { sys } from '../../sys/current.ts'
import { PageSet } from '../page-set.ts'
import { applyDelta } from '../stream/delta.ts'
import type { RamRecords } from '../stream/stream-item.ts'
import { blockAlignment, endOf, type PlacedBlock } from './layout.ts'
import { PageSums } from './page-sum.ts'

const chunkSize = blockAlignment

/** Chunks that pages may still come for: a guest's writes come in between those in order. */
const maxOpenChunks = 8

/** Chunks that are being written; the system writes to a file one after the other anyway. */
const maxWrites = 2

/** Zeroes in front of more pages of a chunk are written along up to this length. */
const maxGap = 64 * 1024

export interface RamTarget {
  readonly ram: Pick<BlockLayer, 'size' | 'read' | 'write' | 'compressed'>
  /** What the pages were in the snapshot that this one builds on. */
  readonly base?: BasePages
  /** Store whole clusters compressed. */
  readonly compress?: boolean
}

/** The snapshot below, whose pages show through where this one has none. */
export interface BasePages {
  readonly sums: Uint32Array
  /** Bytes of the disk; verified. */
  read(offset: number, target: Uint8Array): Completion
}

interface Chunk {
  readonly index: number
  readonly bytes: Uint8Array
  /** Pages whose content is here. */
  readonly present: Uint8Array
  /** Pages of it that are not here yet. */
  missing: number
  /** Nothing of the chunk has been written before. */
  readonly fresh: boolean
}

export class RamWriter {
  readonly pageSize: number
  readonly blocks: readonly PlacedBlock[]
  /** Checksum of each page of the disk. */
  readonly sums: Uint32Array
  /** Whether any page of a block came. */
  readonly blocksSent: boolean[]
  readonly #target: RamTarget
  readonly #pageSums: PageSums
  readonly #nonZero: PageSet
  /** Pages that came, even if as zeroes; kept where there is a base. */
  readonly #sent: PageSet | undefined
  readonly #written: PageSet
  readonly #open = new Map<number, Chunk>()
  readonly #writing = new Map<number, Promise<void>>()
  readonly #spare: Chunk['bytes'][] = []
  #failure: { readonly error: unknown } | undefined

  constructor(target: RamTarget, blocks: readonly PlacedBlock[], pageSize: number) {
    this.#target = target
    this.blocks = blocks
    this.pageSize = pageSize
    const pages = Math.ceil(endOf(blocks) / pageSize)
    this.#pageSums = new PageSums(pageSize)
    this.sums = new Uint32Array(pages).fill(this.#pageSums.zero)
    this.blocksSent = blocks.map(() => false)
    this.#nonZero = new PageSet(pages)
    this.#sent = target.base && new PageSet(pages)
    this.#written = new PageSet(Math.ceil(endOf(blocks) / chunkSize))
  }

  /** Pages that are not zero. */
  get normalPages(): number {
    return this.#nonZero.size
  }

  /** Takes the records; their data is not needed afterwards. */
  async put(records: RamRecords): Promise<void> {
    for (let index = 0; index < records.length; index++) {
      const waiting = this.#take(records, index)
      if (waiting) await waiting
    }
  }

  /** Most records are done on the spot. */
  #take(records: RamRecords, index: number): Completion {
    const block = records.block(index)
    const kind = records.kind(index)
    const offset = this.blocks[block].base + records.offset(index)
    this.blocksSent[block] = true
    this.#sent?.add(offset / this.pageSize)
    if (kind === 'zero') return this.#zero(offset)
    const data = records.data(index)
    if (kind === 'delta') return this.#delta(offset, data)
    return isZero(data) ? this.#zero(offset) : this.#page(offset, data)
  }

  /** Everything is in the image afterwards, though not on stable storage. */
  async finish(): Promise<void> {
    if (this.#sent) await this.#blankBase(this.#sent)
    for (const chunk of [...this.#open.values()]) await this.#close(chunk)
    await Promise.all(this.#writing.values())
    if (this.#failure) throw this.#failure.error
  }

  /** Waits for the writes under way, whatever becomes of them. */
  async abandon(): Promise<void> {
    this.#open.clear()
    await Promise.allSettled(this.#writing.values())
  }

  #page(offset: number, data: Uint8Array): Completion {
    const chunk = this.#chunkAt(offset)
    if (chunk instanceof Promise) return chunk.then((there) => this.#setPage(there, offset, data))
    return this.#setPage(chunk, offset, data)
  }

  #setPage(chunk: Chunk, offset: number, data: Uint8Array): Completion {
    chunk.bytes.set(data, offset % chunkSize)
    this.#nonZero.add(offset / this.pageSize)
    return this.#came(chunk, offset)
  }

  /** A page that never was anything else needs no space. */
  #zero(offset: number): Completion {
    const page = offset / this.pageSize
    const { base } = this.#target
    if (!this.#nonZero.has(page) && (!base || base.sums[page] === this.#pageSums.zero)) return
    const chunk = this.#chunkAt(offset)
    if (chunk instanceof Promise) return chunk.then((there) => this.#setZero(there, offset))
    return this.#setZero(chunk, offset)
  }

  #setZero(chunk: Chunk, offset: number): Completion {
    const at = offset % chunkSize
    chunk.bytes.fill(0, at, at + this.pageSize)
    this.#nonZero.delete(offset / this.pageSize)
    return this.#came(chunk, offset)
  }

  /** A chunk that is whole is written while the processor's cache has it. */
  #came(chunk: Chunk, offset: number): Completion {
    const page = (offset % chunkSize) / this.pageSize
    if (chunk.present[page] === 1) return
    chunk.present[page] = 1
    if (--chunk.missing === 0) return this.#close(chunk)
  }

  async #delta(offset: number, delta: Uint8Array): Promise<void> {
    // Waiting may move what the delta lies in.
    const kept = delta.slice()
    const chunk = await this.#chunkAt(offset)
    const at = offset % chunkSize
    const page = chunk.bytes.subarray(at, at + this.pageSize)
    if (chunk.present[at / this.pageSize] === 0) {
      await this.#writing.get(chunk.index)
      if (this.#nonZero.has(offset / this.pageSize)) {
        await this.#target.ram.read(offset, page, plainIo)
      } else page.fill(0)
    }
    applyDelta(kept, page)
    this.#nonZero.add(offset / this.pageSize)
    await this.#came(chunk, offset)
  }

  #chunkAt(offset: number): Chunk | Promise<Chunk> {
    const index = Math.floor(offset / chunkSize)
    const open = this.#open.get(index)
    if (open) return open
    return this.#open.size < maxOpenChunks ? this.#newChunk(index) : this.#chunkLater(index)
  }

  async #chunkLater(index: number): Promise<Chunk> {
    while (this.#open.size >= maxOpenChunks) {
      const [oldest] = this.#open.values()
      await this.#close(oldest)
    }
    return this.#newChunk(index)
  }

  #newChunk(index: number): Chunk {
    const bytes = this.#spare.pop() ?? sys().alignedMemory(chunkSize, 4096)
    const chunk: Chunk = {
      ...{ index, bytes },
      present: new Uint8Array(chunkSize / this.pageSize),
      missing: chunkSize / this.pageSize,
      fresh: this.#written.add(index),
    }
    this.#open.set(index, chunk)
    return chunk
  }

  /** Begins to write a chunk; waits while too many are being written. */
  async #close(chunk: Chunk): Promise<void> {
    const { index, bytes, present } = chunk
    this.#open.delete(index)
    for (const [first, end] of runsOf(present, 0)) {
      const [from, to] = [first * this.pageSize, end * this.pageSize]
      this.#pageSums.fill(this.sums, this.#firstPage(chunk) + first, bytes.subarray(from, to))
    }
    while (this.#writing.size >= maxWrites || this.#writing.has(index)) {
      await (this.#writing.get(index) ?? Promise.race(this.#writing.values()))
    }
    if (this.#failure) throw this.#failure.error
    const writing = this.#write(chunk)
      .catch((error) => {
        this.#failure ??= { error }
      })
      .finally(() => {
        this.#writing.delete(index)
        this.#spare.push(chunk.bytes)
      })
    this.#writing.set(index, writing)
  }

  async #write(chunk: Chunk): Promise<void> {
    const { base, compress, ram } = this.#target
    if (base) await this.#dropUnchanged(chunk, base)
    const compressed = compress && chunk.fresh ? ram.compressed : undefined
    if (compressed) return await this.#writeCompressed(chunk, compressed)
    const gap = chunk.fresh && !base ? maxGap / this.pageSize : 0
    for (const [first, end] of runsOf(chunk.present, gap)) await this.#writeRun(chunk, first, end)
  }

  /** Pages `first` to `end` of a chunk. */
  async #writeRun(chunk: Chunk, first: number, end: number): Promise<void> {
    const [from, to] = [first * this.pageSize, end * this.pageSize]
    this.#blankMissing(chunk, from, to)
    const offset = chunk.index * chunkSize + from
    await this.#target.ram.write(offset, chunk.bytes.subarray(from, to), plainWriteIo)
  }

  /** Whole units; of one that the base shows in parts, the pages that came. */
  async #writeCompressed(
    chunk: Chunk,
    compressed: NonNullable<BlockLayer['compressed']>,
  ): Promise<void> {
    const { base, ram } = this.#target
    const start = chunk.index * chunkSize
    const end = Math.min(chunkSize, ram.size - start)
    const pages = Math.max(1, compressed.unit / this.pageSize)
    const writes: unknown[] = []
    for (let at = 0; at < end; at += compressed.unit) {
      const first = Math.floor(at / this.pageSize)
      const there = chunk.present.subarray(first, first + pages)
      if (!there.includes(1)) continue
      if (base && there.includes(0)) {
        for (const [from, to] of runsOf(there, 0)) {
          writes.push(this.#writeRun(chunk, first + from, first + to))
        }
        continue
      }
      const unit = chunk.bytes.subarray(at, Math.min(at + compressed.unit, end))
      this.#blankMissing(chunk, at, at + unit.length)
      if (base || !isZero(unit)) writes.push(compressed.write(start + at, unit, plainWriteIo))
    }
    await Promise.all(writes)
  }

  /** Pages between others that never came are zero, unlike what was in the memory before. */
  #blankMissing({ bytes, present }: Chunk, first: number, end: number): void {
    for (let at = alignDown(first, this.pageSize); at < end; at += this.pageSize) {
      if (present[at / this.pageSize] === 0) bytes.fill(0, at, at + this.pageSize)
    }
  }

  /** Takes the pages out that are as they are in the base. */
  async #dropUnchanged(chunk: Chunk, base: BasePages): Promise<void> {
    const firstPage = this.#firstPage(chunk)
    // On a chunk that was written before, the base no longer shows through.
    if (!chunk.fresh) return
    let same = 0
    for (let page = 0; page < chunk.present.length; page++) {
      if (chunk.present[page] && base.sums[firstPage + page] === this.sums[firstPage + page]) same++
    }
    if (same === 0) return
    const below = new Uint8Array(
      Math.min(chunkSize, endOf(this.blocks) - firstPage * this.pageSize),
    )
    await base.read(chunk.index * chunkSize, below)
    for (let page = 0; page < chunk.present.length; page++) {
      const at = page * this.pageSize
      const content = chunk.bytes.subarray(at, at + this.pageSize)
      const unchanged = Buffer.compare(content, below.subarray(at, at + this.pageSize)) === 0
      if (chunk.present[page] && unchanged) chunk.present[page] = 0
    }
  }

  /** Of the disk. */
  #firstPage({ index }: Chunk): number {
    return (index * chunkSize) / this.pageSize
  }

  /** Pages of the base that never came are not part of this snapshot. */
  async #blankBase(sent: PageSet): Promise<void> {
    const sums = this.#target.base?.sums ?? this.sums
    for (const [index, { base, usedLength }] of this.blocks.entries()) {
      const end = (base + usedLength) / this.pageSize
      for (let page = base / this.pageSize; page < end; page++) {
        if (sent.has(page) || sums[page] === this.#pageSums.zero) continue
        if (!this.blocksSent[index]) continue
        await this.#zero(page * this.pageSize)
      }
    }
  }
}

/** Runs of pages that are there, joined over gaps of up to so many others. */
function* runsOf(present: Uint8Array, gap: number): Generator<[first: number, end: number]> {
  for (let page = 0; page < present.length; page++) {
    if (present[page] === 0) continue
    let last = page
    for (let next = page + 1; next < present.length && next - last <= gap + 1; next++) {
      if (present[next] === 1) last = next
    }
    yield [page, last + 1]
    page = last
  }
}
