/**
 * What must not be written over: where the metadata of an image lies, known in memory, asked before
 * every write. In a sound image the answer is always no; it is yes when refcounts or entries are
 * wrong, and then the write that would have destroyed a table is refused instead.
 *
 * One set holds the clusters of all kinds that are guarded, so a request costs the same, some tens
 * of nanoseconds, however many kinds that are; a set for each kind says what was hit. What the
 * levels differ in is what has to be gone through when an image is opened.
 */
import type { BlockError } from '../../errors.ts'
import { ClusterSet } from './cluster-set.ts'

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
  #kinds: ReadonlySet<GuardedKind>
  readonly #clusterSize: number
  readonly #onOverlap: OnOverlap
  readonly #sets = new Map<GuardedKind, ClusterSet>()
  readonly #all = new ClusterSet()

  constructor(kinds: Iterable<GuardedKind>, clusterSize: number, onOverlap: OnOverlap) {
    this.#kinds = new Set(kinds)
    this.#clusterSize = clusterSize
    this.#onOverlap = onOverlap
    for (const kind of this.#kinds) this.#sets.set(kind, new ClusterSet())
  }

  /** Guards other kinds from now on; their places have to be told anew. */
  setKinds(kinds: Iterable<GuardedKind>): void {
    this.clear()
    this.#kinds = new Set(kinds)
    this.#sets.clear()
    for (const kind of this.#kinds) this.#sets.set(kind, new ClusterSet())
  }

  guards(kind: GuardedKind): boolean {
    return this.#kinds.has(kind)
  }

  /** A range of the file holds metadata of that kind from now on. */
  add(kind: GuardedKind, offset: number, length: number): void {
    const set = this.#sets.get(kind)
    if (!set || length <= 0) return
    const { first, count } = this.#clusters(offset, length)
    set.add(first, count)
    this.#all.add(first, count)
  }

  remove(kind: GuardedKind, offset: number, length: number): void {
    const set = this.#sets.get(kind)
    if (!set || length <= 0) return
    const { first, count } = this.#clusters(offset, length)
    set.delete(first, count)
    for (let cluster = first; cluster < first + count; cluster++) {
      if (!this.#kindAt(cluster)) this.#all.delete(cluster, 1)
    }
  }

  /** A cluster is free, so whatever was there is there no more. */
  forget(cluster: number): void {
    if (!this.#all.has(cluster)) return
    this.#all.delete(cluster, 1)
    for (const set of this.#sets.values()) set.delete(cluster, 1)
  }

  clear(): void {
    for (const set of this.#sets.values()) set.clear()
    this.#all.clear()
  }

  /** Whether data must not be written to a range. */
  covers(offset: number, length: number): boolean {
    const first = Math.floor(offset / this.#clusterSize)
    const last = Math.floor((offset + length - 1) / this.#clusterSize)
    return this.#all.firstOf(first, last - first + 1) >= 0
  }

  /** Throws if data, or a new table, must not be written to a range. */
  check(offset: number, length: number): void {
    const { first, count } = this.#clusters(offset, length)
    const hit = this.#all.firstOf(first, count)
    if (hit >= 0) throw this.#overlap(this.#kindAt(hit)!, hit)
  }

  /** Throws if a table, to be changed where it lies, lies on metadata of another kind. */
  checkTable(kind: GuardedKind, offset: number, length: number): void {
    const { first, count } = this.#clusters(offset, length)
    for (const [other, set] of this.#sets) {
      const hit = other === kind ? -1 : set.firstOf(first, count)
      if (hit >= 0) throw this.#overlap(other, hit)
    }
  }

  /** In the words of QEMU, which calls whatever is written metadata. */
  #overlap(kind: GuardedKind, cluster: number): BlockError {
    const message = `Preventing invalid write on metadata (overlaps with ${titles[kind]})`
    return this.#onOverlap(message, cluster * this.#clusterSize)
  }

  #kindAt(cluster: number): GuardedKind | undefined {
    for (const [kind, set] of this.#sets) if (set.has(cluster)) return kind
    return undefined
  }

  #clusters(offset: number, length: number): { first: number; count: number } {
    const first = Math.floor(offset / this.#clusterSize)
    return { first, count: Math.ceil((offset + length) / this.#clusterSize) - first }
  }
}
