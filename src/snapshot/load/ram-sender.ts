/** Reads pieces of RAM from a snapshot, several at a time, and makes sections of them. */
import type { Completion } from '../../block/layer.ts'
import { MiB } from '../../bytes/range.ts'
import { isZero } from '../../bytes/zero.ts'
import { sys } from '../../sys/current.ts'
import type { SnapshotReader } from '../image/snapshot-reader.ts'
import { RamPart } from '../stream/ram-part.ts'
import { orderedRing } from './ordered-ring.ts'
import type { Piece, RamPlan } from './ram-plan.ts'

/** Pieces that are read ahead. */
const precopyDepth = 8

/** Larger pieces, those of huge pages, are sent as several sections. */
const sectionBytes = MiB

export interface Ahead {
  /** Bytes of a piece. */
  readonly length: number
  /** Ends with the piece that brings the pages that are not zero to this number. */
  readonly pages?: number
  readonly depth?: number
}

interface Loaded {
  readonly piece: Piece
  /** Undefined where all pages are zero. */
  readonly bytes: Uint8Array | undefined
}

export class RamSender {
  /** Pages that were sent and are not zero. */
  normalPages = 0
  readonly #snapshot: SnapshotReader
  readonly #plan: RamPlan
  readonly #names: readonly Uint8Array[]
  /** One is filled while the other is on its way. */
  #parts: readonly [RamPart, RamPart]
  readonly #buffers: Uint8Array[] = []

  constructor(snapshot: SnapshotReader, plan: RamPlan) {
    this.#snapshot = snapshot
    this.#plan = plan
    this.#names = plan.blocks.map(({ name }) => Buffer.from(name, 'utf8'))
    const { sectionId } = snapshot.parts.ramList
    const pages = sectionBytes / plan.pageSize
    const part = () => new RamPart(sectionId, plan.pageSize, pages)
    this.#parts = [part(), part()]
  }

  /** The pieces in order, read ahead. What was sent meanwhile is left out. */
  ahead({ length, pages, depth = precopyDepth }: Ahead): AsyncGenerator<Loaded, void> {
    const plan = this.#plan
    const sender = this
    const pieces = async function* () {
      let count = 0
      while (pages === undefined || count < pages) {
        const piece = plan.next(length)
        if (!piece) return
        await sender.#prepare(piece)
        if (pages !== undefined) count += sender.#countNormal(piece)
        if (!plan.isDone(piece)) yield piece
      }
    }
    return orderedRing(pieces(), depth, (piece, slot) => this.load(piece, slot))
  }

  /** Reads a piece, into the buffer of a slot. */
  load(piece: Piece, slot: number): Loaded | Promise<Loaded> {
    const prepared = this.#prepare(piece)
    if (prepared) return prepared.then(() => this.load(piece, slot))
    if (this.#isBlank(piece)) return { piece, bytes: undefined }
    const { block, offset, length } = piece
    if ((this.#buffers[slot]?.length ?? 0) < length) {
      this.#buffers[slot] = sys().alignedMemory(length, 4096)
    }
    const bytes = this.#buffers[slot].subarray(0, length)
    const done = this.#snapshot.read(this.#plan.blocks[block].base + offset, bytes)
    return done ? done.then(() => ({ piece, bytes })) : { piece, bytes }
  }

  /**
   * The sections of a piece's pages that were not sent yet; each is valid until the next but one
   * is asked for.
   */
  *sections({ piece, bytes }: Loaded): Generator<Uint8Array> {
    const { block, offset, length } = piece
    for (let at = 0; at < length; at += sectionBytes) {
      const end = Math.min(length, at + sectionBytes)
      const section = this.#section(block, offset, at, end, bytes)
      if (section) yield section
    }
  }

  #section(
    block: number,
    offset: number,
    start: number,
    end: number,
    bytes: Uint8Array | undefined,
  ): Uint8Array | undefined {
    const { pageSize, blocks } = this.#plan
    const [part, other] = this.#parts
    part.begin(this.#names[block])
    const firstPage = (blocks[block].base + offset) / pageSize
    for (let at = start; at < end; at += pageSize) {
      if (!this.#plan.takePage(firstPage + at / pageSize)) continue
      const page = bytes?.subarray(at, at + pageSize)
      if (!page || this.#isZero(firstPage + at / pageSize, page)) part.zero(offset + at)
      else {
        part.page(offset + at, page)
        this.normalPages++
      }
    }
    if (part.isEmpty) return undefined
    this.#parts = [other, part]
    return part.finish()
  }

  #isZero(number: number, page: Uint8Array): boolean {
    return this.#snapshot.isZeroPage(number) ?? isZero(page)
  }

  /** Pages that are not zero, or may not be. */
  #countNormal({ block, offset, length }: Piece): number {
    const { pageSize } = this.#plan
    const first = (this.#plan.blocks[block].base + offset) / pageSize
    let count = 0
    for (let page = first; page < first + length / pageSize; page++) {
      if (this.#snapshot.isZeroPage(page) !== true) count++
    }
    return count
  }

  #prepare({ block, offset, length }: Piece): Completion {
    return this.#snapshot.prepare(this.#plan.blocks[block].base + offset, length)
  }

  #isBlank({ block, offset, length }: Piece): boolean {
    const { pageSize } = this.#plan
    const first = (this.#plan.blocks[block].base + offset) / pageSize
    for (let page = first; page < first + length / pageSize; page++) {
      if (this.#snapshot.isZeroPage(page) !== true) return false
    }
    return true
  }
}

export type { Loaded }
