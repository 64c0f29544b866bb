/**
 * Moves the data of `img convert`. A number of workers each take the next piece, read it, wait for
 * their turn and write: so pieces are read ahead, while the target allocates its space in ascending
 * order. What reads as zeroes is not written where the target is zero anyway.
 *
 * Only one piece is written at a time: a file system lets one writer into a file, and the others
 * would burn a processor each while they wait (three times the system time, measured on ext4).
 * Compressing takes longer than that, so compressed pieces are dealt with together.
 *
 * Few workers begin, and one more joins when the next piece to be written has not been read yet
 * again and again. Where reading is the faster side, what is written is then still in the processor's cache,
 * which is a tenth of the time; a slow source gets all of them.
 */
import type { BlockLayer } from '../../block/layer.ts'
import { neverAborted, plainWriteIo } from '../../block/layer.ts'
import { RateLimit } from '../../block/rate-limit.ts'
import { alignDown, MiB } from '../../bytes/range.ts'
import { isZero } from '../../bytes/zero.ts'
import { BlockError, strerror } from '../../errors.ts'
import type { Edge } from '../../graph/edge.ts'
import { type ConvertSource, maxPieceLength, type Piece } from './convert-source.ts'
import { CommandFailure } from './failure.ts'

export interface PipelineOptions {
  readonly source: ConvertSource
  readonly target: Edge
  /** Most pieces in flight. */
  readonly workers: number
  /** Whether writes may start in any order. */
  readonly anyOrder: boolean
  /** Bytes; shorter runs of zeroes are written as data. 0: everything is written. */
  readonly sparseSize: number
  readonly compressed: boolean
  /** The target reads as zeroes where nothing has been written. */
  readonly targetIsZero: boolean
  /** Size of the target's backing file; 0 where it has none. */
  readonly backingSize: number
  /** Bytes a second; 0: no limit. */
  readonly rate: number
  /** What cannot be read is reported and becomes zeroes, instead of ending the work. */
  readonly salvage?: (offset: number, reason: string) => void
  /** Called with the bytes of data that have been copied. */
  readonly progress: (bytes: number) => void
}

/** Zeroes are written in steps of this, so that progress shows. */
const maxZeroLength = 256 * MiB

/** The event loop has nothing to do but to wait for this: reads are ahead, in the thread pool. */
const blockingIo = { ...plainWriteIo, blocking: true }

/** Workers to begin with: one writes, one is ready, one reads. */
const firstWorkers = 3

/** Pieces that may come late, one after the other, before another worker joins. */
const patience = 4

/**
 * Milliseconds between two writes that are no waiting: what has been read while the event loop was in
 * a write is heard of afterwards.
 */
const shortestWait = 0.3

/** Smallest piece that salvaging tells good from bad. */
const sectorSize = 512

export async function runPipeline(options: PipelineOptions): Promise<void> {
  await new Pipeline(options).run()
}

class Pipeline {
  readonly #options: PipelineOptions
  readonly #granularity: number
  readonly #maxLength: number
  readonly #pieces: AsyncGenerator<Piece>
  readonly #rate = new RateLimit()
  /** Settles when the piece before has been taken. */
  #taking: Promise<unknown> = Promise.resolve()
  /** Settles when the piece before has passed its turn on. */
  #turn: Promise<void> = Promise.resolve()
  readonly #workers: Promise<void>[] = []
  /** When the last write ended; 0 before the first. */
  #wroteAt = 0
  /** Writes in a row that waited for what they write to be read. */
  #starved = 0
  #failure: { readonly error: unknown } | undefined

  constructor(options: PipelineOptions) {
    this.#options = options
    const { target, compressed, sparseSize, backingSize, source } = options
    this.#granularity = storageUnit(target, compressed, sparseSize)
    this.#maxLength = compressed ? this.#granularity : alignDown(maxPieceLength, this.#granularity)
    this.#rate.rate = options.rate
    this.#pieces = source.pieces({
      granularity: this.#granularity,
      maxLength: this.#maxLength,
      backingSize,
      writeAll: sparseSize === 0,
    })
  }

  async run(): Promise<void> {
    const { workers, anyOrder, compressed } = this.#options
    const first = anyOrder || compressed ? workers : Math.min(workers, firstWorkers)
    for (let number = 0; number < first; number++) this.#workers.push(this.#work())
    // More of them may join meanwhile.
    for (const worker of this.#workers) await worker
    if (this.#failure) throw this.#failure.error
  }

  async #work(): Promise<void> {
    // Made by the first piece of data: an empty disk needs no memory.
    let buffer: Uint8Array | undefined
    try {
      for (;;) {
        const taken = await this.#take()
        if (!taken) return
        const { piece, turn, passTurn } = taken
        try {
          if (piece.status === 'data') buffer ??= new Uint8Array(this.#maxLength)
          await this.#deal(piece, buffer, turn, passTurn)
        } finally {
          passTurn()
        }
        if (piece.status === 'data') this.#options.progress(piece.length)
      }
    } catch (error) {
      this.#failure ??= { error }
    }
  }

  /** Where the writer has waited for a read again and again, one more reads from now on. */
  #joinIfStarved(): void {
    const waited = this.#wroteAt > 0 && performance.now() - this.#wroteAt > shortestWait
    this.#starved = waited ? this.#starved + 1 : 0
    if (this.#starved < patience || this.#workers.length >= this.#options.workers) return
    this.#starved = 0
    this.#workers.push(this.#work())
  }

  /** The next piece that has to be worked on, and its place in the order of writes. */
  async #take(): Promise<Taken | undefined> {
    const taking = this.#taking.then(() => this.#nextPiece())
    this.#taking = taking.catch(() => {})
    return await taking
  }

  async #nextPiece(): Promise<Taken | undefined> {
    while (!this.#failure) {
      const { done, value } = await this.#pieces.next().catch((error) => {
        throw new CommandFailure(`error while reading block status: ${reasonOf(error)}`)
      })
      if (done) return undefined
      const { targetIsZero } = this.#options
      if (value.status === 'data' || (value.status === 'zero' && !targetIsZero)) {
        return { piece: value, ...this.#queue() }
      }
    }
    return undefined
  }

  #queue(): Omit<Taken, 'piece'> {
    let passTurn = () => {}
    const started = new Promise<void>((resolve) => {
      passTurn = resolve
    })
    const turn = this.#turn
    this.#turn = turn.then(() => started)
    return { turn, passTurn }
  }

  async #deal(
    piece: Piece,
    buffer: Uint8Array | undefined,
    turn: Promise<void>,
    passTurn: () => void,
  ): Promise<void> {
    const data = buffer?.subarray(0, piece.length)
    if (piece.status === 'data' && data) {
      await this.#rate.take(piece.length, neverAborted)
      await this.#read(piece.offset, data)
    }
    // Before the turn: a look at every block of what another processor has just read takes as long as a
    // tenth of the write.
    const runs = data && piece.status === 'data' ? [...this.#runs(data)] : []
    if (!this.#options.anyOrder) {
      await turn
      this.#joinIfStarved()
    }
    if (this.#failure) return
    const writing =
      piece.status === 'data' && data
        ? this.#writePiece(piece.offset, data, runs)
        : this.#zeroPiece(piece.offset, piece.length)
    if (this.#options.compressed) passTurn()
    await writing.catch((error) => {
      throw new CommandFailure(`error while writing at byte ${piece.offset}: ${reasonOf(error)}`)
    })
    this.#wroteAt = performance.now()
  }

  async #read(offset: number, target: Uint8Array): Promise<void> {
    const { source, salvage } = this.#options
    try {
      await source.read(offset, target)
    } catch (error) {
      if (!salvage) {
        throw new CommandFailure(`error while reading at byte ${offset}: ${reasonOf(error)}`)
      }
      await this.#salvage(offset, target, salvage)
    }
  }

  async #salvage(
    offset: number,
    target: Uint8Array,
    report: (offset: number, reason: string) => void,
  ): Promise<void> {
    for (let at = 0; at < target.length; at += sectorSize) {
      const part = target.subarray(at, at + sectorSize)
      try {
        await this.#options.source.read(offset + at, part)
      } catch (error) {
        part.fill(0)
        report(offset + at, reasonOf(error))
      }
    }
  }

  /** Starts all writes of a piece before it returns; settles when they are done. */
  #runs(data: Uint8Array): Generator<Run> {
    return runsOf(data, this.#options.sparseSize === 0 ? data.length : this.#granularity)
  }

  async #writePiece(offset: number, data: Uint8Array, runs: readonly Run[]): Promise<void> {
    const { sparseSize, targetIsZero } = this.#options
    const writes: Promise<void>[] = []
    for (const run of runs) {
      const part = data.subarray(run.start, run.end)
      if (!run.zero || sparseSize === 0) writes.push(this.#write(offset + run.start, part))
      else if (!targetIsZero) writes.push(this.#writeZeroes(offset + run.start, part.length))
    }
    await Promise.all(writes)
  }

  async #write(offset: number, data: Uint8Array): Promise<void> {
    const { target, compressed } = this.#options
    if (compressed) await target.compressed?.write(offset, data, plainWriteIo)
    else await target.write(offset, data, blockingIo)
  }

  async #zeroPiece(offset: number, length: number): Promise<void> {
    for (let at = 0; at < length; at += maxZeroLength) {
      await this.#writeZeroes(offset + at, Math.min(maxZeroLength, length - at))
    }
  }

  async #writeZeroes(offset: number, length: number): Promise<void> {
    await this.#options.target.writeZeroes(offset, length, { mayUnmap: true })
  }
}

interface Taken {
  readonly piece: Piece
  /** Settles when it is this piece's turn to be written. */
  readonly turn: Promise<void>
  /** Lets the next piece be written; may be called twice. */
  readonly passTurn: () => void
}

/**
 * The size of the blocks that are either written or left out. Inside a cluster nothing is gained
 * by leaving out zeroes.
 */
function storageUnit(target: BlockLayer, compressed: boolean, sparseSize: number): number {
  if (compressed && target.compressed) return target.compressed.unit
  const cluster = target.image?.clusterSize ?? sectorSize
  const unit = Math.max(cluster, sparseSize, sectorSize)
  return Math.min(unit, maxPieceLength)
}

interface Run {
  readonly start: number
  readonly end: number
  readonly zero: boolean
}

/** The longest runs of blocks that are all zero, or all not. */
function* runsOf(data: Uint8Array, block: number): Generator<Run> {
  let start = 0
  let zero = isZeroBlock(data, 0, block)
  for (let at = block; at < data.length; at += block) {
    const nextZero = isZeroBlock(data, at, block)
    if (nextZero === zero) continue
    yield { start, end: at, zero }
    start = at
    zero = nextZero
  }
  if (data.length > 0) yield { start, end: data.length, zero }
}

/** Most blocks of data say so by their first byte; a view of each would cost more than looking. */
function isZeroBlock(data: Uint8Array, at: number, block: number): boolean {
  return data[at] === 0 && isZero(data.subarray(at, at + block))
}

/** What went wrong, in as few words as the system has for it. */
export function reasonOf(error: unknown): string {
  if (error instanceof BlockError && error.errno) return strerror(error.errno)
  return error instanceof Error ? error.message : String(error)
}
