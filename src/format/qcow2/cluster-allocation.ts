/** Host clusters for some entries of an L2 table, which do not point at them before `link`. */
import type { Allocation } from '../../block/cluster-map.ts'
import type { Completion, HostRange } from '../../block/layer.ts'
import type { ByteRange } from '../../bytes/range.ts'
import type { Qcow2Image } from './image.ts'
import { highOf, lowOf, setCopied } from './l2-table.ts'
import { type HostRun, hostOffset } from './offsets.ts'
import { allocatedOf, maskOf, setSubclusters, zeroOf } from './subclusters.ts'
import type { Table } from './table.ts'

export interface AllocatedEntries {
  /** Stays pinned until the allocation is linked or abandoned. */
  readonly table: Table
  /** The first entry. */
  readonly index: number
  /** One cluster for each entry. */
  readonly run: HostRun
  /** The entries have these very clusters already, kept while they were not data. */
  readonly kept: boolean
  /** What is to become data: whole subclusters, or clusters where there are none. */
  readonly guest: ByteRange
}

export class ClusterAllocation implements Allocation {
  readonly guest: ByteRange
  readonly host: HostRange
  readonly zeroed: boolean
  readonly #image: Qcow2Image
  readonly #entries: AllocatedEntries

  constructor(image: Qcow2Image, entries: AllocatedEntries) {
    const { run, guest } = entries
    const { layout, space } = image
    this.#image = image
    this.#entries = entries
    this.zeroed = space.claim(run.offset, run.count * layout.clusterSize)
    this.guest = guest
    const offset = run.offset + (guest.offset % layout.clusterSize)
    const layer = space.layerAt(offset, guest.offset)
    this.host = { layer, offset, length: guest.length, writable: true }
  }

  leftOut(): void {
    const { offset, length } = this.host
    this.#image.file.leftOut.add(offset, length)
  }

  link(): void {
    this.#link(this.guest)
  }

  /** The entries keep the clusters for later. Without subclusters to say so, that is `link`. */
  keep(): void {
    const { extended } = this.#image.layout
    this.#link(extended ? { ...this.guest, length: 0 } : this.guest)
  }

  abandon(): Completion {
    const { table, run, kept } = this.#entries
    table.unpin()
    if (!kept) return this.#image.space.giveBack(run)
  }

  #link(data: ByteRange): void {
    const { table, index, run, kept } = this.#entries
    const { layout } = this.#image
    for (let at = 0; at < run.count; at++) {
      const word = layout.wordOf(index + at)
      if (!kept) {
        const { view } = table
        this.#image.releaseEntry(highOf(view, word), lowOf(view, word), 'other')
      }
      setCopied(table.view, word, hostOffset(run.offset + at * layout.clusterSize))
      if (layout.extended) this.#linkSubclusters(at, data)
    }
    table.touchRange(index * layout.entryBytes, run.count * layout.entryBytes)
    table.unpin()
  }

  /** Those that were written are allocated; the others stay what they were. */
  #linkSubclusters(at: number, data: ByteRange): void {
    const { table, index, kept } = this.#entries
    const { view } = table
    const { clusterSize, subclusterSize } = this.#image.layout
    const within = data.offset % clusterSize
    const first = Math.max(0, (within - at * clusterSize) / subclusterSize)
    const end = (within + data.length - at * clusterSize) / subclusterSize
    const written = maskOf(first, Math.ceil(end))
    // What a former cluster had is copied into the new one by now, or lies outside its data.
    const before = kept ? allocatedOf(view, index + at) : 0
    const zero = zeroOf(view, index + at) & ~written
    setSubclusters(view, index + at, (before | written) >>> 0, zero >>> 0)
  }
}
