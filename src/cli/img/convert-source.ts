/** What `img convert` reads: one image or several, one behind the other, piece by piece. */
import type { ByteRange } from '../../bytes/range.ts'
import { alignDown, alignUp, MiB } from '../../bytes/range.ts'
import type { Edge } from '../../graph/edge.ts'
import type { BlockNode } from '../../graph/node.ts'
import { backingOf, chainExtentAt } from '../../graph/status.ts'

/** Longest piece of data that is read at once. */
export const maxPieceLength = 4 * MiB

/** An input image at its place in the output. */
export interface SourceImage {
  readonly edge: Edge
  readonly start: number
  /** Bytes, in whole sectors; what is behind the image's own end is zero. */
  readonly size: number
}

/** What is at a place of the output: to be read, zeroes, or what the target's backing file has. */
export type Status = 'data' | 'zero' | 'backing'

export interface Piece extends ByteRange {
  readonly status: Status
}

export interface PieceOptions {
  /** Pieces begin and end at multiples of it: the unit in which the target stores. */
  readonly granularity: number
  /** Longest piece of data; a multiple of `granularity`. */
  readonly maxLength: number
  /** Bytes at the start that the target's backing file provides where the input says nothing. */
  readonly backingSize: number
  /** Everything is to be written, zeroes included. */
  readonly writeAll: boolean
}

export class ConvertSource {
  readonly size: number
  readonly #images: readonly SourceImage[]

  constructor(images: readonly SourceImage[]) {
    this.#images = images
    this.size = images.reduce((sum, image) => sum + image.size, 0)
  }

  /** The image, where there is but one. */
  get single(): BlockNode | undefined {
    return this.#images.length === 1 ? this.#images[0].edge.node : undefined
  }

  /** Fills `target`; zeroes where an image ends inside its last sector. */
  async read(offset: number, target: Uint8Array): Promise<void> {
    for (let at = 0; at < target.length; ) {
      const { edge, start, size } = this.#imageAt(offset + at)
      const inside = offset + at - start
      const part = target.subarray(at, at + Math.min(target.length - at, size - inside))
      const real = part.subarray(0, Math.max(0, edge.size - inside))
      part.fill(0, real.length)
      if (real.length > 0) await edge.read(inside, real)
      at += part.length
    }
  }

  /** The pieces in ascending order, until the end. */
  async *pieces(options: PieceOptions): AsyncGenerator<Piece> {
    const { granularity, maxLength } = options
    for (let at = 0; at < this.size; ) {
      const piece = (await this.#emptyPiece(at, options)) ?? {
        offset: at,
        length: (await this.#dataEnd(at, at + maxLength, options)) - at,
        status: 'data',
      }
      yield piece
      at += piece.length
      if (at % granularity !== 0 && at < this.size) throw new RangeError('a ragged piece')
    }
  }

  /** Bytes of data to be read, in all. */
  async dataLength(options: Pick<PieceOptions, 'backingSize' | 'writeAll'>): Promise<number> {
    let length = 0
    for (let at = 0; at < this.size; ) {
      const run = await this.#statusAt(at, options)
      if (run.status === 'data') length += run.length
      at += run.length
    }
    return length
  }

  /** Whole units without data at `at`, if there are any. */
  async #emptyPiece(at: number, options: PieceOptions): Promise<Piece | undefined> {
    const run = await this.#statusAt(at, options)
    if (run.status === 'data') return undefined
    const end = at + run.length
    const length = (end === this.size ? end : alignDown(end, options.granularity)) - at
    return length > 0 ? { offset: at, length, status: run.status } : undefined
  }

  /** Where the data that begins at `at` ends, looking no further than `limit`. */
  async #dataEnd(at: number, limit: number, options: PieceOptions): Promise<number> {
    const last = Math.min(limit, this.size)
    let end = at
    while (end < last) {
      if (end > at && (await this.#emptyPiece(end, options))) break
      const run = await this.#statusAt(end, options)
      end = Math.min(last, alignUp(end + run.length, options.granularity))
    }
    return end
  }

  #recent: Piece = { offset: 0, length: 0, status: 'data' }

  /** The run at `at`. The last answer is kept: it is asked for again where a piece ends. */
  async #statusAt(
    at: number,
    options: Pick<PieceOptions, 'backingSize' | 'writeAll'>,
  ): Promise<Piece> {
    const { offset, length, status } = this.#recent
    if (at >= offset && at < offset + length) {
      return { offset: at, length: offset + length - at, status }
    }
    this.#recent = options.writeAll
      ? { offset: at, length: this.size - at, status: 'data' }
      : await this.#askStatus(at, options.backingSize)
    return this.#recent
  }

  async #askStatus(at: number, backingSize: number): Promise<Piece> {
    const { edge, start, size } = this.#imageAt(at)
    const inside = at - start
    const end = Math.min(edge.size, size)
    if (inside >= end) return { offset: at, length: size - inside, status: 'zero' }
    const length = end - inside
    if (backingSize > 0) {
      const run = await edge.extentAt(inside, length)
      const below = backingOf(edge.node)?.size ?? 0
      // Behind the end of its own backing file, or without one, what the input does not have is zeroes.
      if (run.kind === 'backing' && inside < below) {
        return backingPiece(at, Math.min(run.length, below - inside), backingSize)
      }
    }
    const run = await chainExtentAt(edge.node, inside, length)
    // The few bytes up to the end of a cut sector belong to the last run.
    const whole = inside + run.length === edge.size ? size - inside : run.length
    return { offset: at, length: whole, status: run.zero ? 'zero' : 'data' }
  }

  #imageAt(offset: number): SourceImage {
    const found = this.#images.findLast(({ start, size }) => start <= offset && size > 0)
    if (!found) throw new RangeError(`no image at ${offset}`)
    return found
  }
}

/** Not allocated in the input: the target's backing file has it, zeroes behind that one's end. */
function backingPiece(offset: number, length: number, backingSize: number): Piece {
  if (offset >= backingSize) return { offset, length, status: 'zero' }
  return { offset, length: Math.min(length, backingSize - offset), status: 'backing' }
}
