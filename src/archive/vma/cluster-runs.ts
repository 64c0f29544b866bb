/**
 * Where each cluster of one device lies in an archive. Neighbouring clusters that are stored whole
 * in one extent, or are all zero, make one run, so a terabyte written in order takes some 300,000
 * runs of 22 bytes. Runs live in typed arrays: they are the only part of reading at random that
 * grows with the archive.
 */
import { BlockError } from '../../errors.ts'
import type { ScannedExtent } from './extent-stream.ts'
import { clusterSize, extentHeader, fullMask } from './structures.ts'

/** Runs of one device: 370 MB. A disk of 1 TiB reaches it when every cluster is a run of its own. */
export const maxRuns = 2 ** 24

export interface ClusterRun {
  /** First cluster. */
  readonly cluster: number
  readonly count: number
  /** The mask of each cluster: full, zero, or any for a run of one. */
  readonly mask: number
  /** Offset of the first stored block in the archive. */
  readonly position: number
  /** Number of the extent, in the order in which extents were added. */
  readonly extent: number
}

export class ClusterRuns {
  #cluster = new Uint32Array(1024)
  #count = new Uint32Array(1024)
  #mask = new Uint16Array(1024)
  #position = new Float64Array(1024)
  #extent = new Uint32Array(1024)
  #length = 0
  #extents = 0

  get length(): number {
    return this.#length
  }

  /** Adds the clusters of `deviceId`; the extent gets the next number. */
  add(extent: ScannedExtent, deviceId: number): void {
    const number = this.#extents++
    const base = extent.offset + extentHeader.size
    for (const { deviceId: id, cluster, mask, dataOffset } of extent.clusters) {
      if (id !== deviceId) continue
      this.#append({ cluster, count: 1, mask, position: base + dataOffset, extent: number })
    }
  }

  /**
   * Sorts by cluster and checks that clusters 0 to `clusters` - 1 are there, each once. Nothing is
   * added afterwards.
   */
  finish(clusters: number): void {
    this.#sort()
    let expected = 0
    for (let run = 0; run < this.#length; run++) {
      const first = this.#cluster[run]
      if (first > expected) throw missing(expected)
      if (first < expected) {
        throw new BlockError('CORRUPT_IMAGE', `cluster ${first} is stored for the second time`, {
          offset: this.#position[run],
        })
      }
      expected = first + this.#count[run]
    }
    if (expected < clusters) throw missing(expected)
    if (expected > clusters) {
      throw new BlockError(
        'CORRUPT_IMAGE',
        `cluster ${expected - 1} lies behind the device's end`,
        {
          offset: this.#position[this.#length - 1],
        },
      )
    }
  }

  /** The number of the run with this cluster, which is in the device. */
  find(cluster: number): number {
    let low = 0
    let high = this.#length
    while (high - low > 1) {
      const middle = Math.floor((low + high) / 2)
      if (this.#cluster[middle] <= cluster) low = middle
      else high = middle
    }
    return low
  }

  at(run: number): ClusterRun {
    return {
      cluster: this.#cluster[run],
      count: this.#count[run],
      mask: this.#mask[run],
      position: this.#position[run],
      extent: this.#extent[run],
    }
  }

  #append(next: ClusterRun): void {
    const last = this.#length - 1
    if (last >= 0 && this.#continues(last, next)) {
      this.#count[last]++
      return
    }
    if (this.#length === maxRuns) {
      throw new BlockError(
        'UNSUPPORTED',
        `the device is scattered over more than ${maxRuns} places`,
      )
    }
    if (this.#length === this.#cluster.length) this.#grow()
    const run = this.#length++
    this.#cluster[run] = next.cluster
    this.#count[run] = 1
    this.#mask[run] = next.mask
    this.#position[run] = next.position
    this.#extent[run] = next.extent
  }

  #continues(last: number, next: ClusterRun): boolean {
    if (this.#cluster[last] + this.#count[last] !== next.cluster) return false
    if (this.#mask[last] !== next.mask) return false
    if (next.mask === 0) return true
    return (
      next.mask === fullMask &&
      this.#extent[last] === next.extent &&
      this.#position[last] + this.#count[last] * clusterSize === next.position
    )
  }

  #grow(): void {
    const grown = <T extends Uint16Array | Uint32Array | Float64Array>(bigger: T, from: T) => {
      bigger.set(from)
      return bigger
    }
    const length = 2 * this.#length
    this.#cluster = grown(new Uint32Array(length), this.#cluster)
    this.#count = grown(new Uint32Array(length), this.#count)
    this.#mask = grown(new Uint16Array(length), this.#mask)
    this.#position = grown(new Float64Array(length), this.#position)
    this.#extent = grown(new Uint32Array(length), this.#extent)
  }

  #sort(): void {
    const { length } = this
    if (this.#isSorted()) return
    const cluster = this.#cluster
    const order = new Uint32Array(length)
      .map((_, run) => run)
      .sort((a, b) => cluster[a] - cluster[b])
    this.#cluster = order.map((run) => cluster[run])
    this.#count = order.map(numberOf(this.#count))
    this.#mask = Uint16Array.from(order, numberOf(this.#mask))
    this.#position = Float64Array.from(order, numberOf(this.#position))
    this.#extent = order.map(numberOf(this.#extent))
  }

  #isSorted(): boolean {
    for (let run = 1; run < this.#length; run++) {
      if (this.#cluster[run] < this.#cluster[run - 1]) return false
    }
    return true
  }
}

function numberOf(from: Uint16Array | Uint32Array | Float64Array): (run: number) => number {
  return (run) => from[run]
}

function missing(cluster: number): BlockError {
  return new BlockError(
    'CORRUPT_IMAGE',
    `cluster ${cluster} is missing: the archive is incomplete`,
    {
      offset: 0,
    },
  )
}
