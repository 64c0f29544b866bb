/**
 * Keeps a target like its source: a bitmap says where they differ, guests' writes add to it, and
 * pieces are copied until nothing is left. A bit is cleared before its piece is read; a write that
 * comes later sets it again, when it is done. So whatever a piece was copied with, it is copied
 * once more if it was not the last.
 *
 * With write-blocking, guests' writes go to the target as well and are answered when both have
 * them, so that what was once the same stays the same.
 */
import { DirtyBitmap } from '../bitmap/dirty-bitmap.ts'
import { deferred } from '../block/deferred.ts'
import type { Io } from '../block/layer.ts'
import { RangeLock } from '../block/range-lock.ts'
import { CopyError, Transfer } from '../block/transfer.ts'
import { alignDown, alignUp, type ByteRange, GiB, MiB } from '../bytes/range.ts'
import type { BlockNode } from '../graph/node.ts'
import { chainExtentAt } from '../graph/status.ts'
import { CopyPace, runWorkers } from './copy-pace.ts'
import type { JobControl } from './work.ts'

/** Most pieces in flight. */
const maxWorkers = 16

/** Longest piece that is read; zeroes are passed over in longer ones. */
const maxPieceLength = MiB
const maxZeroLength = GiB

/** Pause before an error that the policy ignores is met again. */
const ignoredErrorDelayMs = 100

export interface MirrorCopyOptions {
  readonly source: BlockNode
  readonly target: BlockNode
  /** Bytes that one bit stands for. */
  readonly granularity: number
  /** Bytes in flight at most, as far as pieces go into them. */
  readonly bufferSize: number
  /** Whether zeroes may deallocate in the target. */
  readonly unmap: boolean
}

interface Piece extends ByteRange {
  readonly zero: boolean
}

export class MirrorCopy {
  readonly bitmap: DirtyBitmap
  readonly #options: MirrorCopyOptions
  readonly #lock = new RangeLock()
  readonly #transfer: Transfer
  readonly #pieceLength: number
  readonly #pace: CopyPace
  readonly #untrack: () => void
  #marking = true
  /** Settles when something has become dirty. */
  #news = deferred()
  #cursor = 0
  /** Being looked at by `#pick`, so that its bits are clear for the moment. */
  #picked: ByteRange | undefined
  #picking: Promise<unknown> = Promise.resolve()
  #done = 0
  #inFlight = 0

  constructor(options: MirrorCopyOptions) {
    this.#options = options
    const { source, target, granularity, bufferSize } = options
    this.bitmap = new DirtyBitmap({ granularity, size: source.size })
    const shortest = Math.max(granularity, target.layer.image?.clusterSize ?? 0)
    this.#pieceLength = alignUp(Math.max(maxPieceLength, bufferSize / maxWorkers), shortest)
    const most = Math.max(1, Math.min(maxWorkers, Math.floor(bufferSize / this.#pieceLength)))
    this.#pace = new CopyPace(most)
    this.#transfer = new Transfer({
      ...options,
      clusterSize: Math.max(granularity, 64 * 1024),
      maxLength: this.#pieceLength,
    })
    this.#untrack = source.bitmaps.track({ mark: (offset, length) => this.#mark(offset, length) })
  }

  /** Bytes that differ, or may. */
  get remaining(): number {
    const { size, granularity } = this.bitmap
    // The last granule counts whole, but the disk may end within it.
    const excess = alignUp(size, granularity) - size
    const last = excess > 0 && this.bitmap.has(size - 1) ? excess : 0
    return this.bitmap.count - last
  }

  get clean(): boolean {
    return this.bitmap.count === 0
  }

  /** Settles when something has become dirty since this was asked. */
  get news(): Promise<void> {
    return this.#news.promise
  }

  stop(): void {
    this.#untrack()
  }

  /** What differs at the beginning is marked; until then a clean bit means nothing. */
  marked(): void {
    this.#marking = false
  }

  /** Copies until nothing is dirty and nothing in flight. */
  async converge(control: JobControl): Promise<void> {
    while (!this.clean) await runWorkers(this.#pace, () => this.#copyNext(control))
  }

  /** As `converge`, while the source is drained and nobody but this works on it. */
  async finish(io: Io): Promise<void> {
    for (let piece = await this.#pick(io); piece; piece = await this.#pick(io)) {
      await this.#perform(piece, io)
      this.#inFlight -= piece.length
    }
  }

  /** Tells the job's progress: what is dirty is still to be done, again and again. */
  report(control: JobControl): void {
    control.setTotal(this.#done + this.#inFlight + this.remaining)
  }

  /** A guest's write, to the source and then to the target; nothing else happens to its range. */
  async writeBoth(
    offset: number,
    length: number,
    toSource: () => void | Promise<void>,
    toTarget: () => void | Promise<void>,
  ): Promise<void> {
    const { granularity, size } = this.bitmap
    const start = alignDown(offset, granularity)
    const end = alignUp(offset + length, granularity)
    await this.#lock.during(start, end - start, true, undefined, async () => {
      // Granules that are written in part stay dirty if they were.
      const first = this.#differs(start) ? alignUp(offset, granularity) : start
      const cut = Math.min(end, size)
      const whole = offset + length >= size
      const last =
        !whole && this.#differs(end - granularity) ? alignDown(offset + length, granularity) : cut
      await toSource()
      try {
        await toTarget()
      } catch {
        // The source has it and the bitmap knows: copying it will meet the error, or not.
        return
      }
      if (last > first) this.bitmap.clear(first, last - first)
    })
  }

  #differs(offset: number): boolean {
    // It may be marked while the guest's write is under way.
    if (this.#marking) return true
    const picked = this.#picked
    if (
      picked &&
      offset < picked.offset + picked.length &&
      picked.offset < offset + this.bitmap.granularity
    ) {
      return true
    }
    return this.bitmap.has(offset)
  }

  #mark(offset: number, length: number): void {
    this.bitmap.mark(offset, length)
    this.#news.resolve()
    this.#news = deferred()
  }

  async #copyNext(control: JobControl): Promise<boolean> {
    const { signal } = control
    const io = { signal, background: true }
    let piece: Piece | undefined
    try {
      piece = await control.during(() => this.#pick(io))
      this.report(control)
      if (!piece) return false
      control.advance(await this.#deal(piece, io, control))
      this.report(control)
    } catch (error) {
      if (!(error instanceof CopyError)) throw error
      const operation = error.side === 'source' ? 'read' : 'write'
      const answer = await control.failed(error.cause, operation)
      if (answer === 'ignore') await pause(ignoredErrorDelayMs, signal)
    }
    return true
  }

  /**
   * Copies a piece that was picked, when speed and pauses allow, and returns its length; or else it
   * is dirty again.
   */
  async #deal(piece: Piece, io: Io, control: JobControl): Promise<number> {
    try {
      if (!piece.zero) await control.throttle(piece.length)
      return await control.during(() => this.#perform(piece, io))
    } catch (error) {
      this.bitmap.add(piece.offset, piece.length)
      throw error
    } finally {
      this.#inFlight -= piece.length
    }
  }

  /** Takes the next dirty piece, one caller after the other; undefined when there is none. */
  #pick(io: Io): Promise<Piece | undefined> {
    const picking = this.#picking.then(() => this.#pickNow(io))
    this.#picking = picking.catch(() => {})
    return picking
  }

  async #pickNow(io: Io): Promise<Piece | undefined> {
    const run = this.bitmap.nextDirty(this.#cursor) ?? this.bitmap.nextDirty(0)
    if (!run) return undefined
    const { offset } = run
    const reach = Math.min(run.length, maxZeroLength)
    // Cleared before anything is asked: what changes from now on is marked anew.
    this.bitmap.clear(offset, reach)
    this.#picked = { offset, length: reach }
    let length = 0
    try {
      const { zero, length: found } = await this.#statusAt(offset, reach, io)
      length = this.#cut(offset, Math.min(found, reach), reach, zero)
      const isZero = zero && length <= found
      this.#inFlight += length
      return { offset, length, zero: isZero }
    } finally {
      this.bitmap.add(offset + length, reach - length)
      this.#picked = undefined
      this.#cursor = offset + length
    }
  }

  async #statusAt(offset: number, length: number, io: Io) {
    try {
      return await chainExtentAt(this.#options.source, offset, length, io)
    } catch (error) {
      throw new CopyError('source', offset, error)
    }
  }

  /** The length of a piece: whole granules, the disk's last one counting although cut. */
  #cut(offset: number, found: number, reach: number, zero: boolean): number {
    const { granularity } = this.bitmap
    if (zero && (found === reach || found >= granularity)) {
      return found === reach ? reach : alignDown(found, granularity)
    }
    return Math.min(reach, this.#pieceLength - (offset % granularity), alignUp(found, granularity))
  }

  /** Returns the bytes that are the same on both sides now: all of the piece, or none. */
  async #perform(piece: Piece, io: Io): Promise<number> {
    const { offset, length } = piece
    const span = alignUp(length, this.bitmap.granularity)
    return await this.#lock.during(offset, span, true, io.signal, async () => {
      try {
        if (!piece.zero) {
          await this.#transfer.copy(offset, length, io)
          this.#pace.copied(length)
        } else if (await this.#isZero(offset, length, io)) {
          await this.#zero(offset, length, io)
        } else {
          this.bitmap.add(offset, length)
          return 0
        }
      } catch (error) {
        // Before a guest's write that waits for the range asks whether it differs.
        this.bitmap.add(offset, length)
        throw error
      }
      this.#done += length
      return length
    })
  }

  /**
   * Whether what was zeroes when it was picked is so still. A guest may have written to both sides
   * in the meantime, and has left nothing dirty to tell.
   */
  async #isZero(offset: number, length: number, io: Io): Promise<boolean> {
    const end = offset + length
    for (let at = offset; at < end; ) {
      const run = await this.#statusAt(at, end - at, io)
      if (!run.zero) return false
      at += run.length
    }
    return true
  }

  /** Leaves alone what reads as zeroes in the target already. */
  async #zero(offset: number, length: number, io: Io): Promise<void> {
    const { target } = this.#options
    const end = offset + length
    for (let at = offset; at < end; ) {
      const inside = Math.max(0, Math.min(end, target.size) - at)
      const run = inside > 0 ? await chainExtentAt(target, at, inside, io) : undefined
      const bytes = Math.min(end - at, run?.length ?? end - at)
      if (!run?.zero) await this.#transfer.zero(at, bytes, io)
      at += bytes
    }
  }
}

async function pause(milliseconds: number, signal: AbortSignal): Promise<void> {
  await new Promise<void>((resolve) => {
    const timer = setTimeout(resolve, milliseconds)
    signal.addEventListener('abort', () => resolve(), { once: true })
    signal.addEventListener('abort', () => clearTimeout(timer), { once: true })
  })
}
