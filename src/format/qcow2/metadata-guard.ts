/**
 * What must not be written over: where the metadata of an image lies, known in memory, asked before
 * every write. In a sound image the answer is always no; it is yes when refcounts or entries are
 * wrong, and then the write that would have destroyed a table is refused instead.
 *
 * All kinds that are guarded are marks in one table of clusters, so a request costs the same however
 * many kinds that are: a look per cluster. What the levels differ in is what has to be gone through
 * when an image is opened.
 */
import type { BlockError } from '../../errors.ts'
import { ClusterMarks } from './cluster-marks.ts'

/** Names as `overlap-check` has them. */
export const guardedKinds = [
  'main-header',
  'active-l1',
  'active-l2',
  'refcount-table',
  'refcount-block',
  'snapshot-table',
  'inactive-l1',
  'inactive-l2',
  'bitmap-directory',
] as const
export type GuardedKind = (typeof guardedKinds)[number]

const constant: readonly GuardedKind[] = [
  'main-header',
  'active-l1',
  'refcount-table',
  'snapshot-table',
  'bitmap-directory',
]
const cached: readonly GuardedKind[] = [...constant, 'active-l2', 'refcount-block', 'inactive-l1']

export const guardTemplates = { none: [], constant, cached, all: guardedKinds } as const
export type GuardTemplate = keyof typeof guardTemplates

/** What messages call them. */
const titles: Readonly<Record<GuardedKind, string>> = {
  'main-header': 'qcow2_header',
  'active-l1': 'active L1 table',
  'active-l2': 'active L2 table',
  'refcount-table': 'refcount table',
  'refcount-block': 'refcount block',
  'snapshot-table': 'snapshot table',
  'inactive-l1': 'inactive L1 table',
  'inactive-l2': 'inactive L2 table',
  'bitmap-directory': 'bitmap directory',
}

/** Makes a hit known: marks the image, and returns what to throw. */
export type OnOverlap = (message: string, offset: number) => BlockError

export class MetadataGuard {
  readonly #clusterSize: number
  readonly #onOverlap: OnOverlap
  readonly #marks = new ClusterMarks()
  /** The bits of those kinds that are guarded. */
  #bits: ReadonlyMap<GuardedKind, number>

  constructor(kinds: Iterable<GuardedKind>, clusterSize: number, onOverlap: OnOverlap) {
    this.#clusterSize = clusterSize
    this.#onOverlap = onOverlap
    this.#bits = bitsOf(kinds)
  }

  /** Guards other kinds, and nothing until it is told anew what lies where. */
  setKinds(kinds: Iterable<GuardedKind>): void {
    this.clear()
    this.#bits = bitsOf(kinds)
  }

  guards(kind: GuardedKind): boolean {
    return this.#bits.has(kind)
  }

  /** A range of the file holds metadata of that kind from now on. */
  add(kind: GuardedKind, offset: number, length: number): void {
    const bit = this.#bits.get(kind)
    if (bit === undefined || length <= 0) return
    const { first, count } = this.#clusters(offset, length)
    this.#marks.add(first, count, bit)
  }

  remove(kind: GuardedKind, offset: number, length: number): void {
    const bit = this.#bits.get(kind)
    if (bit === undefined || length <= 0) return
    const { first, count } = this.#clusters(offset, length)
    this.#marks.delete(first, count, bit)
  }

  clear(): void {
    this.#marks.clear()
  }

  /** Whether data must not be written to a range. */
  covers(offset: number, length: number): boolean {
    const first = Math.floor(offset / this.#clusterSize)
    const last = Math.floor((offset + length - 1) / this.#clusterSize)
    return this.#marks.firstOf(first, last - first + 1) >= 0
  }

  /** Throws if data, or a new table, must not be written to a range. */
  check(offset: number, length: number): void {
    this.#refuse(offset, length, allKinds)
  }

  /** Throws if a table, to be changed where it lies, lies on metadata of another kind. */
  checkTable(kind: GuardedKind, offset: number, length: number): void {
    this.#refuse(offset, length, allKinds - (this.#bits.get(kind) ?? 0))
  }

  #refuse(offset: number, length: number, bits: number): void {
    const { first, count } = this.#clusters(offset, length)
    const hit = this.#marks.firstOf(first, count, bits)
    if (hit < 0) return
    const found = this.#marks.of(hit) & bits
    const kind = guardedKinds.find((each) => (found & (this.#bits.get(each) ?? 0)) !== 0)!
    // In the words of QEMU, which calls whatever is written metadata.
    const message = `Preventing invalid write on metadata (overlaps with ${titles[kind]})`
    throw this.#onOverlap(message, hit * this.#clusterSize)
  }

  #clusters(offset: number, length: number): { first: number; count: number } {
    const first = Math.floor(offset / this.#clusterSize)
    return { first, count: Math.ceil((offset + length) / this.#clusterSize) - first }
  }
}

const allKinds = 2 ** guardedKinds.length - 1

function bitsOf(kinds: Iterable<GuardedKind>): ReadonlyMap<GuardedKind, number> {
  return new Map([...kinds].map((kind) => [kind, 2 ** guardedKinds.indexOf(kind)]))
}
