/**
 * Where the disk's clusters lie, as the L2 tables have it: the reading half of the cluster map. An
 * entry that cannot be right is a fault, which says what it was looked up for.
 */
import type { Extent } from '../../block/layer.ts'
import { alignUp } from '../../bytes/range.ts'
import { elsewhereSignal, entryFault, readSignal, writeSignal } from './entry-signals.ts'
import { hex } from './faults.ts'
import type { Qcow2Image } from './image.ts'
import { kind } from './l2-table.ts'
import { ClusterRuns, type Run, type Runs } from './runs.ts'
import { SubclusterRuns } from './subcluster-runs.ts'
import type { Table } from './table.ts'

export class Lookup {
  readonly #image: Qcow2Image
  readonly #runs: Runs
  /** Clusters may be holes of the file: see `isSparse`. */
  readonly #sparse: boolean
  /** What `#mapIn` looks up, for the words in which a fault is told: where, and what for. */
  #asked = 0
  #writes = false

  constructor(image: Qcow2Image, sparse: boolean) {
    const { layout, l2Tables } = image
    const readFault = (table: Table, index: number, what: string): never => {
      const guest = this.#asked - (this.#asked % layout.coverage) + index * layout.clusterSize
      const signal = this.#writes
        ? writeSignal(image, table, index, guest)
        : readSignal(image, table, index)
      throw signal ?? entryFault(image, table, index, what)
    }
    this.#image = image
    this.#sparse = sparse
    this.#runs = layout.extended
      ? new SubclusterRuns(l2Tables, readFault)
      : new ClusterRuns(l2Tables, readFault)
  }

  /**
   * Maps the start of a range. `writes`: for a write, which is told of faults in other words than a read.
   * Without a promise where the table is cached.
   */
  map(offset: number, length: number, writes: boolean): Extent | Promise<Extent> {
    const { corruption, l2Tables, layout } = this.#image
    corruption.refuseAll()
    const l1Index = layout.l1Index(offset)
    const tableOffset = l2Tables.offsetAt(l1Index)
    if (tableOffset === 0) {
      const run = this.#runs.withoutTable(l1Index, offset, length)
      return { offset, length: Math.min(length, run), kind: 'backing' }
    }
    const table = l2Tables.cached(tableOffset)
    if (!table) return this.#load(offset, length, writes)
    return this.#mapIn(table, l1Index, offset, length, writes)
  }

  async #load(offset: number, length: number, writes: boolean): Promise<Extent> {
    const { l2Tables, layout } = this.#image
    const l1Index = layout.l1Index(offset)
    const table = await l2Tables.load(l1Index)
    try {
      return this.#mapIn(table, l1Index, offset, length, writes)
    } finally {
      table.unpin()
    }
  }

  #mapIn(table: Table, l1Index: number, offset: number, length: number, writes: boolean): Extent {
    this.#asked = offset
    this.#writes = writes
    const run = this.#runs.find(table, l1Index, offset, length)
    switch (run.kind) {
      case kind.unallocated:
        if (run.cluster !== undefined) return this.#hosted(table, offset, run)
        return { offset, length: run.length, kind: 'backing' }
      case kind.zeroPlain:
        return { offset, length: run.length, kind: 'zero', allocated: false }
      case kind.compressed:
        return { offset, length: run.length, kind: 'encoded' }
      default:
        return this.#hosted(table, offset, run)
    }
  }

  /**
   * A run with host clusters. Only the last cluster of an image file may be cut off: its missing
   * part reads as zeroes, as does everything behind the end of a data file.
   */
  #hosted(table: Table, offset: number, run: Run): Extent {
    const { space, dataFile } = this.#image
    const cluster = run.cluster!
    const start = cluster + (offset % this.#image.layout.clusterSize)
    if (dataFile && start !== offset) {
      const guest = offset - (offset % this.#image.layout.clusterSize)
      const index = this.#image.layout.l2Index(offset)
      if (!this.#writes) throw elsewhereSignal(this.#image, table, index, { cluster, guest })
      const what = `points to ${hex(cluster)}, where the data file has another cluster`
      throw this.#faultAt(table, offset, what)
    }
    if (!dataFile && cluster >= space.size) {
      throw this.#faultAt(table, offset, `points to ${hex(cluster)}, behind the end of the file`)
    }
    const clustersEnd = dataFile
      ? Number.POSITIVE_INFINITY
      : alignUp(space.size, this.#image.layout.clusterSize)
    const length = Math.min(run.length, clustersEnd - start)
    if (run.kind === kind.data) return this.#data(offset, start, length, run)
    const host = { layer: space.layerAt(start, offset), offset: start, length, writable: false }
    return run.kind === kind.unallocated
      ? { offset, length, kind: 'backing', host }
      : { offset, length, kind: 'zero', allocated: true, host }
  }

  #data(offset: number, start: number, length: number, { copied }: Run): Extent {
    const { space } = this.#image
    const inside = Math.min(length, space.size - start)
    if (inside <= 0) return { offset, length, kind: 'zero', allocated: true }
    const host = {
      layer: space.layerAt(start, offset),
      offset: start,
      length: inside,
      writable: copied && this.#isWritable(start, inside),
      sparse: this.#sparse,
      enciphered: space.enciphered,
    }
    return { offset, length: inside, kind: 'data', host }
  }

  /** Whether the image takes writes, and a range of its clusters holds no metadata. */
  #isWritable(offset: number, length: number): boolean {
    const { corruption, guard, layout } = this.#image
    if (this.#image.readOnly || corruption.found) return false
    return layout.external || !guard.covers(offset, length)
  }

  #faultAt(table: Table, offset: number, what: string) {
    return entryFault(this.#image, table, this.#image.layout.l2Index(offset), what)
  }
}
