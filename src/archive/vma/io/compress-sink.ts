/**
 * Compression on the way to another sink, in pieces that stand alone: zstd frames and gzip
 * members. Pieces are compressed in parallel by the thread pool and leave in order. To a decoder
 * they are one stream; for zstd a seek table at the end tells where each frame begins.
 */
import { promisify } from 'node:util'
import { constants, gzip, zstdCompress } from 'node:zlib'
import { MiB } from '../../../bytes/range.ts'
import { BlockError } from '../../../errors.ts'
import type { ArchiveSink } from './sink.ts'
import {
  maxSeekFrames,
  seekEntry,
  seekFooter,
  seekFooterMagic,
  seekTableMagic,
  skippableHeader,
} from './zstd-format.ts'

/** Smaller writes are gathered until they are this much. A full extent is 3.8 MB. */
const pieceSize = 4 * MiB
/** Writes from this size on become a piece of their own, without a copy. */
const ownPieceSize = 1 * MiB

type Compress = (piece: Uint8Array) => Promise<Uint8Array>

class PieceSink implements ArchiveSink {
  protected readonly next: ArchiveSink
  readonly #compress: Compress
  #gathered = Buffer.alloc(pieceSize)
  #used = 0
  #previous: Promise<void> = Promise.resolve()

  constructor(next: ArchiveSink, compress: Compress) {
    this.next = next
    this.#compress = compress
  }

  async write(bytes: Uint8Array): Promise<void> {
    if (bytes.length >= ownPieceSize) {
      await Promise.all([this.#sendGathered(), this.#send(bytes)])
      return
    }
    const sent = this.#used + bytes.length > pieceSize ? this.#sendGathered() : undefined
    this.#gathered.set(bytes, this.#used)
    this.#used += bytes.length
    await sent
  }

  async finish(): Promise<void> {
    await this.#sendGathered()
    const trailer = this.trailer()
    if (trailer) await this.next.write(trailer)
    await this.next.finish()
  }

  async abort(): Promise<void> {
    await this.next.abort()
    await this.#previous.catch(() => {})
  }

  /** Called for each piece, in order. */
  protected sent(_compressedSize: number, _size: number): void {}

  /** What follows the last piece. */
  protected trailer(): Uint8Array | undefined {
    return undefined
  }

  /** The memory goes with the piece; a new one takes its place. */
  #sendGathered(): Promise<void> {
    if (this.#used === 0) return this.#previous
    const piece = this.#gathered.subarray(0, this.#used)
    this.#gathered = Buffer.alloc(pieceSize)
    this.#used = 0
    return this.#send(piece)
  }

  #send(piece: Uint8Array): Promise<void> {
    const compressed = this.#compress(piece)
    const sent = this.#previous.then(async () => {
      const bytes = await compressed
      this.sent(bytes.length, piece.length)
      await this.next.write(bytes)
    })
    // Whoever comes before may fail first; then nobody looks at this one any more.
    compressed.catch(() => {})
    this.#previous = sent
    return sent
  }
}

const zstd = promisify(zstdCompress)
const gzipped = promisify(gzip)
/** Output is gathered in chunks of this size: one allocation for most pieces. */
const chunkSize = 4 * MiB

export class ZstdSink extends PieceSink {
  #entries = Buffer.alloc(64 * seekEntry.size)
  #frames = 0

  constructor(next: ArchiveSink, level: number = constants.ZSTD_CLEVEL_DEFAULT) {
    super(next, (piece) =>
      zstd(piece, {
        chunkSize,
        pledgedSrcSize: piece.length,
        params: {
          [constants.ZSTD_c_compressionLevel]: level,
          [constants.ZSTD_c_checksumFlag]: 1,
        },
      }),
    )
  }

  protected override sent(compressedSize: number, decompressedSize: number): void {
    if (this.#frames === maxSeekFrames) {
      throw new BlockError('UNSUPPORTED', `more than ${maxSeekFrames} zstd frames`)
    }
    const at = this.#frames++ * seekEntry.size
    if (at === this.#entries.length) {
      this.#entries = Buffer.concat([this.#entries, Buffer.alloc(at)])
    }
    seekEntry.encodeInto(this.#entries, at, { compressedSize, decompressedSize })
  }

  protected override trailer(): Uint8Array {
    const contentSize = this.#frames * seekEntry.size + seekFooter.size
    return Buffer.concat([
      skippableHeader.encode({ magic: seekTableMagic, contentSize }),
      this.#entries.subarray(0, this.#frames * seekEntry.size),
      seekFooter.encode({ frameCount: this.#frames, descriptor: 0, magic: seekFooterMagic }),
    ])
  }
}

export class GzipSink extends PieceSink {
  constructor(next: ArchiveSink, level: number = constants.Z_DEFAULT_COMPRESSION) {
    super(next, (piece) => gzipped(piece, { chunkSize, level }))
  }
}
