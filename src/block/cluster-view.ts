/**
 * What a disk of clusters shows: runs as the map tells them, encoded ones decoded, and the backing
 * file below them. Keeps no requests apart; that is for its caller.
 */
import type { ClusterMap } from './cluster-map.ts'
import type { BlockLayer, Completion, Extent, HostRange, Io } from './layer.ts'

/** Runs of one request that are read at the same time. */
const maxRunsInFlight = 16

export class ClusterView {
  /** Belongs to the graph; changed only while drained. */
  backing: BlockLayer | undefined
  readonly #map: ClusterMap

  constructor(map: ClusterMap, backing: BlockLayer | undefined) {
    this.#map = map
    this.backing = backing
  }

  /** The first run, when the map knows it at once; otherwise it is asked again under the lock. */
  mapNow(offset: number, length: number, io: Io): Extent | undefined {
    const run = this.#map.map(offset, length, io)
    if (!(run instanceof Promise)) return run
    // It has begun to load the table. If that fails, who asks again will hear of it.
    run.catch(() => {})
    return undefined
  }

  /** Fills `target` with what a range inside the disk, or inside the state behind it, reads as. */
  async readRuns(offset: number, target: Uint8Array, io: Io): Promise<void> {
    let pending: Promise<void>[] = []
    let at = 0
    try {
      while (at < target.length) {
        const mapped = this.#map.map(offset + at, target.length - at, io)
        const run = mapped instanceof Promise ? await mapped : mapped
        const length = Math.min(run.length, target.length - at)
        const done = this.readRun(run, offset + at, target.subarray(at, at + length), io)
        if (done instanceof Promise) {
          // It may fail while the next run is looked up, before anybody waits for it.
          done.catch(() => {})
          pending.push(done)
        }
        if (pending.length >= maxRunsInFlight) {
          const batch = pending
          pending = []
          await allSettled(batch)
        }
        at += length
      }
    } finally {
      // The target belongs to the caller again only when nobody writes into it any more.
      await allSettled(pending)
    }
  }

  /** Fills `target`, of the run's length at most, with what the run reads as at its beginning. */
  readRun(run: Extent, offset: number, target: Uint8Array, io: Io): Completion {
    const watcher = run.kind === 'data' ? hostOf(run).layer : this.#map
    const event = watcher.debugEvent && readEvents[run.kind]
    const held = event && watcher.debugEvent?.(event)
    if (held) return held.then(() => this.#readRunNow(run, offset, target, io))
    return this.#readRunNow(run, offset, target, io)
  }

  #readRunNow(run: Extent, offset: number, target: Uint8Array, io: Io): Completion {
    switch (run.kind) {
      case 'data':
        return hostOf(run).layer.read(hostOf(run).offset, target, io)
      case 'zero':
        target.fill(0)
        return
      case 'encoded':
        return this.#map.readEncoded!(offset, target, io)
      case 'backing':
        return readBacking(this.#isState(offset) ? undefined : this.backing, offset, target, io)
    }
  }

  /** Whether tables in memory say that a range reads as zeroes. */
  isBlank(offset: number, length: number, io: Io): boolean {
    const end = Math.min(offset + length, this.#endOf(offset))
    for (let at = offset; at < end; ) {
      const run = this.mapNow(at, end - at, io)
      if (!run || !this.readsAsZero(run, at)) return false
      at += run.length
    }
    return true
  }

  /** Fills `target` with what a range reads as now; zeroes behind the end of the disk. */
  read(offset: number, target: Uint8Array, io: Io): Completion {
    const inside = Math.min(target.length, Math.max(0, this.#endOf(offset) - offset))
    if (inside < target.length) target.fill(0, inside)
    if (inside === 0) return
    const part = target.subarray(0, inside)
    const run = this.mapNow(offset, inside, io)
    return run && run.length >= inside
      ? this.readRun(run, offset, part, io)
      : this.readRuns(offset, part, io)
  }

  readsAsZero(run: Extent, offset: number): boolean {
    if (run.kind === 'zero') return true
    if (run.kind !== 'backing') return false
    return this.#isState(offset) || offset >= (this.backing?.size ?? 0)
  }

  /** Where what `offset` belongs to ends: the disk, or the state of a machine behind it. */
  #endOf(offset: number): number {
    return this.#isState(offset) ? Number.MAX_SAFE_INTEGER : this.#map.size
  }

  #isState(offset: number): boolean {
    const { stateArea } = this.#map
    return stateArea !== undefined && offset >= this.#map.size && offset >= stateArea.offset
  }
}

/** What blkdebug is told before a run is read. */
const readEvents = {
  data: 'read_aio',
  backing: 'read_backing_aio',
  encoded: 'read_compressed',
  zero: undefined,
} as const

function hostOf(run: Extent & { kind: 'data' }): HostRange {
  if (run.host) return run.host
  throw new TypeError('a cluster map reported data without saying where it lies')
}

/** Reads from a backing file, which may be absent or shorter than the overlay: zeroes then. */
function readBacking(
  backing: BlockLayer | undefined,
  offset: number,
  target: Uint8Array,
  io: Io,
): Completion {
  const inside = Math.min(target.length, Math.max(0, (backing?.size ?? 0) - offset))
  if (inside < target.length) target.fill(0, inside)
  if (backing && inside > 0) return backing.read(offset, target.subarray(0, inside), io)
}

/** Waits for all, then rejects with the first failure. */
async function allSettled(pending: readonly Promise<void>[]): Promise<void> {
  if (pending.length === 0) return
  for (const result of await Promise.allSettled(pending)) {
    if (result.status === 'rejected') throw result.reason
  }
}
