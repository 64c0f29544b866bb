/**
 * Changing the size of a disk of clusters. What it gains reads as zeroes, and so does what its last
 * cluster stores behind its end: nobody sees that, until a program makes the disk larger without a
 * look at it (QEMU does).
 */
import { alignDown, alignUp } from '../bytes/range.ts'
import { isZero } from '../bytes/zero.ts'
import { BlockError, invalid } from '../errors.ts'
import type { ClusterMap } from './cluster-map.ts'
import type { ClusterView } from './cluster-view.ts'
import type { ClusterZeroes } from './cluster-zeroes.ts'
import {
  type Completion,
  type Extent,
  type Io,
  plainWriteIo,
  type ResizeIo,
  type WriteIo,
} from './layer.ts'

export class ClusterResize {
  readonly #map: ClusterMap
  readonly #view: ClusterView
  readonly #zeroes: ClusterZeroes
  readonly #write: (offset: number, source: Uint8Array, io: WriteIo) => Completion

  /** `write` stores bytes, in place or into new clusters. */
  constructor(
    map: ClusterMap,
    view: ClusterView,
    zeroes: ClusterZeroes,
    write: (offset: number, source: Uint8Array, io: WriteIo) => Completion,
  ) {
    this.#map = map
    this.#view = view
    this.#zeroes = zeroes
    this.#write = write
  }

  /** Alone on the disk. */
  async to(size: number, io: ResizeIo): Promise<void> {
    const before = this.#map.size
    const taken = (io.preallocation ?? 'off') !== 'off'
    if (size < before && taken) throw shrinkingPreallocation()
    const { clusterSize, subclusterSize } = this.#map
    const behind = alignUp(before, clusterSize)
    const blank = taken && (await this.#endsBlank(io))
    await this.#map.truncate(size, io, blank)
    // Neither what the last cluster held behind the former end, from before the disk was cut off
    // there, nor what the backing file holds behind it was part of this disk.
    // Subclusters that only have their place show it, too.
    const hidden = taken && subclusterSize === clusterSize
    const shown = hidden ? 0 : (this.#view.backing?.size ?? 0)
    const end = Math.min(size, Math.max(behind, shown))
    await this.#clear(blank ? behind : before, end, taken, io)
    if (size < behind) await this.#clearBehindEnd(io)
  }

  /** Whether the disk ends within a cluster that reads as zeroes, and of which nothing is stored. */
  async #endsBlank(io: Io): Promise<boolean> {
    const { size, clusterSize, subclusterSize } = this.#map
    if (subclusterSize !== clusterSize) return false
    const start = alignDown(size, clusterSize)
    return await this.#zeroes.isBlank(start, size, start, io)
  }

  /** `taken`: what is compressed gets a place of its own. */
  async #clear(start: number, end: number, taken: boolean, io: Io): Promise<void> {
    for (let at = start; at < end; ) {
      const run = await this.#map.map(at, end - at, io)
      const length = Math.min(run.length, end - at)
      const placed = !taken || run.kind !== 'encoded'
      if (!placed || !(await this.#isClear(run, at, length, io))) {
        const zeroIo = { ...plainWriteIo, signal: io.signal, mayUnmap: false, fastOnly: false }
        return await this.#zeroes.write(at, end - at, zeroIo)
      }
      at += length
    }
  }

  /** The disk has its new size already: one that is full can be made smaller without this. */
  async #clearBehindEnd(io: Io): Promise<void> {
    const { size, clusterSize } = this.#map
    const end = alignUp(size, clusterSize)
    try {
      for (let at = size; at < end; ) {
        const run = await this.#map.map(at, end - at, io)
        const length = Math.min(run.length, end - at)
        const stored = run.kind === 'data' || run.kind === 'encoded'
        if (stored && !(await this.#isClear(run, at, length, io))) {
          await this.#write(at, new Uint8Array(length), { ...plainWriteIo, signal: io.signal })
        }
        at += length
      }
    } catch (error) {
      if (!(error instanceof BlockError) || error.code !== 'NO_SPACE') throw error
    }
  }

  /** Whether a run reads as zeroes. What is stored is at most the rest of a cluster. */
  async #isClear(run: Extent, offset: number, length: number, io: Io): Promise<boolean> {
    if (run.kind !== 'data' && run.kind !== 'encoded') return this.#view.readsAsZero(run, offset)
    if (length > this.#map.clusterSize) return false
    const bytes = new Uint8Array(length)
    await this.#view.readRun(run, offset, bytes, io)
    return isZero(bytes)
  }
}

function shrinkingPreallocation(): BlockError {
  return invalid("Preallocation can't be used for shrinking an image")
}
