/** Random access to zstd files that end with a seek table: only the frames touched are decoded. */
import { BlockError } from '../../../errors.ts'
import type { RandomAccess } from './source.ts'
import {
  decodeSeekFooter,
  maxSeekTableSize,
  seekEntry,
  seekFooter,
  seekTableMagic,
  skippableHeader,
} from './zstd-format.ts'
import { decodeWhole, maxWholeFrame } from './zstd-source.ts'

/** Decoded frames that are kept: at most 64 MiB. */
const keptFrames = 4

export class ZstdRandom implements RandomAccess {
  readonly #name: string
  readonly #file: RandomAccess
  /** Where each frame begins, in the file and in the content, and where the last one ends. */
  readonly #compressed: Float64Array
  readonly #content: Float64Array
  /** In order of last use. */
  readonly #decoded = new Map<number, Promise<Buffer>>()

  private constructor(
    name: string,
    file: RandomAccess,
    compressed: Float64Array,
    content: Float64Array,
  ) {
    this.#name = name
    this.#file = file
    this.#compressed = compressed
    this.#content = content
  }

  /** Undefined when the file has no seek table, or frames too large to be decoded at once. */
  static async open(name: string, file: RandomAccess): Promise<ZstdRandom | undefined> {
    const entries = await readSeekTable(name, file)
    if (!entries) return undefined
    const { table, entrySize, start } = entries
    const count = table.length / entrySize
    const compressed = new Float64Array(count + 1)
    const content = new Float64Array(count + 1)
    for (let frame = 0; frame < count; frame++) {
      const { compressedSize, decompressedSize } = seekEntry.decode(table, frame * entrySize)
      if (compressedSize > 2 * maxWholeFrame || decompressedSize > maxWholeFrame) return undefined
      compressed[frame + 1] = compressed[frame] + compressedSize
      content[frame + 1] = content[frame] + decompressedSize
    }
    if (compressed[count] !== start) {
      throw new BlockError(
        'CORRUPT_IMAGE',
        `'${name}': the seek table describes ${compressed[count]} bytes, there are ${start}`,
        { path: name, offset: start },
      )
    }
    return new ZstdRandom(name, file, compressed, content)
  }

  get size(): number {
    return this.#content[this.#content.length - 1]
  }

  async readAt(offset: number, target: Uint8Array): Promise<number> {
    let done = 0
    while (done < target.length && offset + done < this.size) {
      const frame = this.#frameAt(offset + done)
      const decoded = await this.#decode(frame)
      const from = offset + done - this.#content[frame]
      done += decoded.copy(target, done, from)
    }
    return done
  }

  /** The frame with this byte of the content. */
  #frameAt(offset: number): number {
    let low = 0
    let high = this.#content.length - 1
    while (high - low > 1) {
      const middle = Math.floor((low + high) / 2)
      if (this.#content[middle] <= offset) low = middle
      else high = middle
    }
    return low
  }

  #decode(frame: number): Promise<Buffer> {
    const decoded = this.#decoded.get(frame) ?? this.#load(frame)
    this.#decoded.delete(frame)
    this.#decoded.set(frame, decoded)
    for (const oldest of this.#decoded.keys()) {
      if (this.#decoded.size <= keptFrames) break
      this.#decoded.delete(oldest)
    }
    return decoded
  }

  async #load(frame: number): Promise<Buffer> {
    const offset = this.#compressed[frame]
    const bytes = Buffer.allocUnsafe(this.#compressed[frame + 1] - offset)
    const contentSize = this.#content[frame + 1] - this.#content[frame]
    const count = await this.#file.readAt(offset, bytes)
    try {
      return await decodeWhole(bytes.subarray(0, count), { name: this.#name, offset, contentSize })
    } catch (error) {
      if (error instanceof BlockError) throw error
      throw new BlockError(
        'CORRUPT_IMAGE',
        `'${this.#name}': the zstd frame at byte ${offset} is damaged: ${(error as Error).message}`,
        { path: this.#name, offset, cause: error },
      )
    }
  }
}

/** The entries of the seek table and where its frame begins. */
async function readSeekTable(name: string, file: RandomAccess) {
  const footerAt = file.size - seekFooter.size
  if (footerAt < skippableHeader.size) return undefined
  const end = Buffer.alloc(seekFooter.size)
  await file.readAt(footerAt, end)
  const footer = decodeSeekFooter(end)
  if (!footer) return undefined
  const tableSize = footer.frameCount * footer.entrySize
  const start = footerAt - tableSize - skippableHeader.size
  if (tableSize > maxSeekTableSize) return undefined
  const frame = Buffer.alloc(start < 0 ? 0 : skippableHeader.size + tableSize)
  if (start >= 0) await file.readAt(start, frame)
  const head = start >= 0 ? skippableHeader.decode(frame) : undefined
  if (head?.magic !== seekTableMagic || head.contentSize !== tableSize + seekFooter.size) {
    throw new BlockError('CORRUPT_IMAGE', `'${name}': the seek table has no beginning`, {
      path: name,
      offset: footerAt,
    })
  }
  return { table: frame.subarray(skippableHeader.size), entrySize: footer.entrySize, start }
}
