/**
 * Making a range of a disk of clusters read as zeroes: whole subclusters are marked where the format
 * can, and what is left at the ends is written.
 */
import { alignDown, alignUp, type ByteRange } from '../bytes/range.ts'
import { BlockError } from '../errors.ts'
import type { ClusterMap } from './cluster-map.ts'
import type { ClusterView } from './cluster-view.ts'
import type { Completion, Io, WriteIo, ZeroIo } from './layer.ts'

export class ClusterZeroes {
  readonly #map: ClusterMap
  readonly #view: ClusterView
  readonly #write: (offset: number, source: Uint8Array, io: WriteIo) => Completion

  /** `write` stores bytes, in place or into new clusters. */
  constructor(
    map: ClusterMap,
    view: ClusterView,
    write: (offset: number, source: Uint8Array, io: WriteIo) => Completion,
  ) {
    this.#map = map
    this.#view = view
    this.#write = write
  }

  /** Alone on the clusters of the range. */
  async write(offset: number, length: number, io: ZeroIo): Promise<void> {
    const end = offset + length
    const whole = await this.#markable(offset, length, io)
    const tail = whole.offset + whole.length
    if (io.fastOnly) {
      // All or nothing: whoever hears "not the fast way" goes on with the disk as it was.
      await this.#refuseSlowZeroes(offset, whole.offset - offset, io)
      await this.#refuseSlowZeroes(tail, end - tail, io)
    }
    await this.#writeZeroBytes(offset, whole.offset - offset, io)
    if (whole.length > 0) await this.#map.zero(whole.offset, whole.length, io)
    await this.#writeZeroBytes(tail, end - tail, io)
  }

  /** Throws if any of the range would have to be zeroed byte by byte. */
  async #refuseSlowZeroes(offset: number, length: number, io: ZeroIo): Promise<void> {
    for (let at = offset; at < offset + length; ) {
      const run = await this.#map.map(at, offset + length - at, io)
      if (!this.#view.readsAsZero(run, at)) throw slowZeroes(at)
      at += run.length
    }
  }

  /** Zeroes that have to be stored as bytes; runs that read as zeroes already are left alone. */
  async #writeZeroBytes(offset: number, length: number, io: ZeroIo): Promise<void> {
    let at = offset
    const end = offset + length
    while (at < end) {
      const run = await this.#map.map(at, end - at, io)
      const runEnd = Math.min(end, at + run.length)
      if (!this.#view.readsAsZero(run, at)) {
        const part = Math.min(runEnd - at, this.#map.limits.maxTransfer)
        await this.#write(at, new Uint8Array(part), io)
        at += part
      } else {
        at = runEnd
      }
    }
  }

  /** The part of a range that can be marked as zero: an encoded cluster only as a whole. */
  async #markable(offset: number, length: number, io: Io): Promise<ByteRange> {
    const { zeroClusters, clusterSize, subclusterSize } = this.#map
    if (!zeroClusters) return { offset: offset + length, length: 0 }
    const { offset: first, length: inside } = wholeUnits(this.#map, offset, length, subclusterSize)
    if (inside === 0) return { offset: offset + length, length: 0 }
    if (subclusterSize === clusterSize) return { offset: first, length: inside }
    const encoded = async (at: number) =>
      at % clusterSize !== 0 &&
      at < this.#map.size &&
      (await this.#map.map(at, 1, io)).kind === 'encoded'
    const last = first + inside
    const start = (await encoded(first)) ? Math.min(last, alignUp(first, clusterSize)) : first
    const end = (await encoded(last)) ? Math.max(start, alignDown(last, clusterSize)) : last
    return { offset: start, length: end - start }
  }
}

/** The part of a range that consists of whole units; the disk's last counts although cut. */
export function wholeUnits(
  map: ClusterMap,
  offset: number,
  length: number,
  unit: number,
): ByteRange {
  const end = offset + length
  const first = alignUp(offset, unit)
  const last = end === map.size ? end : alignDown(end, unit)
  return { offset: first, length: Math.max(0, last - first) }
}

function slowZeroes(offset: number): BlockError {
  return new BlockError('UNSUPPORTED', `zeroes at ${offset} cannot be written the fast way`, {
    offset,
    errno: 'ENOTSUP',
  })
}
