/**
 * Making a range of a disk of clusters read as zeroes: whole subclusters are marked where the format
 * can, and what is left at the ends is written. A subcluster of which only a part is meant is marked
 * as well where nothing is stored for it and the rest reads as zeroes anyway.
 */
import { alignDown, alignUp, type ByteRange } from '../bytes/range.ts'
import { isZero } from '../bytes/zero.ts'
import { BlockError } from '../errors.ts'
import type { ClusterMap } from './cluster-map.ts'
import type { ClusterView } from './cluster-view.ts'
import type { BlockLayer, Completion, Io, WriteIo, ZeroIo } from './layer.ts'

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
  async write(asked: number, askedLength: number, io: ZeroIo): Promise<void> {
    // As QEMU has it for version 2 of qcow2, even where nothing would have to be done.
    if (io.fastOnly && !this.#map.zeroClusters) throw slowZeroes(asked)
    const offset = await this.#startOf(asked, io)
    const end = await this.#endOf(asked + askedLength, io)
    const whole = await this.#markable(offset, end - offset, io)
    const tail = whole.offset + whole.length
    if (io.fastOnly) {
      // All or nothing: whoever hears "not the fast way" goes on with the disk as it was.
      await this.#refuseSlowZeroes(offset, whole.offset - offset, io)
      await this.#refuseSlowZeroes(tail, end - tail, io)
    }
    await this.#writeZeroBytes(offset, whole.offset - offset, io)
    if (whole.length > 0) await this.#mark(whole, io)
    await this.#writeZeroBytes(tail, end - tail, io)
  }

  async #mark({ offset, length }: ByteRange, io: ZeroIo): Promise<void> {
    if (this.#map.zeroClusters) await this.#map.zero(offset, length, io)
    else await this.#map.discard(offset, length, io, false)
  }

  /** Whether something else than bytes can make clusters read as zeroes. */
  get #marks(): boolean {
    const { zeroClusters, dropsToZero } = this.#map
    return zeroClusters || (dropsToZero && this.#view.backing === undefined)
  }

  /** Where to begin for zeroes from `offset` on. */
  async #startOf(offset: number, io: Io): Promise<number> {
    const start = alignDown(offset, this.#map.subclusterSize)
    return (await this.isBlank(start, offset, start, io)) ? start : offset
  }

  /** Where to end for zeroes up to `offset`. */
  async #endOf(offset: number, io: Io): Promise<number> {
    const { subclusterSize, size } = this.#map
    const end = Math.min(size, alignUp(offset, subclusterSize))
    const start = alignDown(offset, subclusterSize)
    return (await this.isBlank(offset, end, start, io)) ? end : offset
  }

  /**
   * Whether the bytes from `from` to `to`, of the subcluster at `start`, read as zeroes without being
   * stored in this image. Bytes of a backing file would be read for a copy of them, if not for this.
   */
  async isBlank(from: number, to: number, start: number, io: Io): Promise<boolean> {
    if (from === to || !this.#marks) return false
    const { kind } = await this.#map.map(start, 1, io)
    if (kind === 'zero') return true
    if (kind !== 'backing') return false
    const { backing } = this.#view
    const end = Math.min(to, backing?.size ?? 0)
    for (let at = from; backing && at < end; ) {
      const run = await backing.extentAt(at, end - at, io)
      const length = Math.min(run.length, end - at)
      if (run.kind === 'data' || run.kind === 'encoded') return false
      // What that one has from its own backing file is not known from here.
      if (run.kind === 'backing' && !(await readsAsZeroes(backing, at, length, io))) return false
      at += length
    }
    return true
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
    const { clusterSize, subclusterSize } = this.#map
    if (!this.#marks) return { offset: offset + length, length: 0 }
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

async function readsAsZeroes(layer: BlockLayer, offset: number, length: number, io: Io) {
  const bytes = new Uint8Array(length)
  await layer.read(offset, bytes, io)
  return isZero(bytes)
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
