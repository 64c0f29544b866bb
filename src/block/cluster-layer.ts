/**
 * The engine of all cluster formats: it asks a `ClusterMap` where bytes lie and moves them. Reads
 * follow the runs of the map; writes go in place where that is allowed and otherwise through an
 * allocation: data first, copied-on-write surroundings with it, then the link.
 *
 * Requests on one cluster: any number that neither allocate nor release run together; one that
 * does runs alone. So no cluster is freed, and given to somebody else, under a request that is
 * still reading or writing it.
 */
import { alignDown, alignUp, type ByteRange } from '../bytes/range.ts'
import { BlockError } from '../errors.ts'
import { withoutHidden } from './cipher-layer.ts'
import { ClusterFill } from './cluster-fill.ts'
import type { Allocation, ClusterMap } from './cluster-map.ts'
import {
  type BackingLink,
  type BlockLayer,
  type Capabilities,
  type Completion,
  type CompressedWriter,
  type Extent,
  type HostRange,
  type ImageAmend,
  type ImageCheck,
  type ImageFacts,
  type InternalSnapshots,
  type Io,
  type Limits,
  type PersistentBitmaps,
  plainWriteIo,
  type ResizeIo,
  type VmState,
  type WriteIo,
  type ZeroIo,
} from './layer.ts'
import { RangeLock } from './range-lock.ts'
import { vmStateIn } from './vm-state.ts'

/** Runs of one request that are read at the same time. */
const maxRunsInFlight = 16

export class ClusterLayer implements BlockLayer {
  capabilities: Capabilities
  readonly setReadOnly?: BlockLayer['setReadOnly']
  readonly makeEmpty?: BlockLayer['makeEmpty']
  readonly reopen?: BlockLayer['reopen']
  readonly reread?: BlockLayer['reread']
  readonly image?: ImageFacts
  readonly amend?: ImageAmend
  readonly check?: ImageCheck
  readonly backingLink?: BackingLink
  readonly compressed?: CompressedWriter
  readonly snapshots?: InternalSnapshots
  readonly vmState?: VmState
  readonly bitmaps?: PersistentBitmaps
  readonly #map: ClusterMap
  readonly #lock = new RangeLock()
  readonly #fill: ClusterFill
  #backing: BlockLayer | undefined

  /** Takes over `map` and disposes it; `backing` belongs to the graph. */
  constructor(map: ClusterMap, backing: BlockLayer | undefined) {
    this.#map = map
    this.#fill = new ClusterFill(map, {
      read: (offset, target, io) => this.#readShown(offset, target, io),
      isBlank: (offset, length, io) => this.#isBlank(offset, length, io),
    })
    this.#backing = backing
    this.capabilities = capabilitiesOf(map)
    const switchMap = map.setReadOnly?.bind(map)
    if (switchMap) {
      this.setReadOnly = async (readOnly, io) => {
        await this.#lock.during(0, Number.MAX_SAFE_INTEGER, true, io.signal, async () => {
          await switchMap(readOnly, io)
          this.capabilities = capabilitiesOf(map)
        })
      }
    }
    const rereadMap = map.reread?.bind(map)
    if (rereadMap) {
      this.reread = async (io) =>
        await this.#lock.during(0, Number.MAX_SAFE_INTEGER, true, io.signal, () => rereadMap(io))
    }
    const reopenMap = map.reopen?.bind(map)
    if (reopenMap) {
      this.reopen = (options, io) =>
        this.#lock.during(0, Number.MAX_SAFE_INTEGER, true, io.signal, () => reopenMap(options, io))
    }
    this.image = map.abilities.image
    this.amend = map.abilities.amend
    this.check = map.abilities.check
    this.backingLink = map.abilities.backingLink
    const { stateArea, abilities } = map
    if (abilities.snapshots) this.snapshots = this.#runAlone(abilities.snapshots)
    if (stateArea) {
      const alone = (work: () => Promise<void>, io: Io) => this.#alone(io, work)
      this.vmState = vmStateIn(stateArea, this, () => !map.readOnly, alone)
    }
    this.bitmaps = map.abilities.bitmaps
    const { makeEmpty } = abilities
    if (makeEmpty) this.makeEmpty = (io) => this.#alone(io, () => makeEmpty(io))
    const encode = map.writeEncoded?.bind(map)
    if (encode) {
      this.compressed = {
        unit: map.clusterSize,
        write: (offset, source, io) => this.#writeEncoded(encode, offset, source, io),
      }
    }
  }

  get size(): number {
    return this.#map.size
  }

  get limits(): Limits {
    return this.#map.limits
  }

  /** The backing child from now on. Only while drained. */
  setBacking(backing: BlockLayer | undefined): void {
    this.#backing = backing
  }

  read(offset: number, target: Uint8Array, io: Io): Completion {
    const { length } = target
    if (!this.#lock.blocks(offset, length)) {
      const run = this.#mapNow(offset, length, io)
      if (run && run.length >= length && run.kind === 'data' && run.host && !watched(run.host)) {
        const done = run.host.layer.read(run.host.offset, target, io)
        return done instanceof Promise ? this.#lock.hold(offset, length, done) : undefined
      }
    }
    return this.#lock.during(offset, length, false, io.signal, () =>
      this.#readRuns(offset, target, io),
    )
  }

  write(offset: number, source: Uint8Array, io: WriteIo): Completion {
    const { length } = source
    if (!this.#lock.blocks(offset, length)) {
      const run = this.#mapNow(offset, length, io)
      if (run && run.length >= length && inPlace(run) && !watched(run.host)) {
        const done = run.host.layer.write(run.host.offset, source, io)
        return done instanceof Promise ? this.#lock.hold(offset, length, done) : undefined
      }
    }
    return this.#exclusively(offset, length, io, () => this.#writeRuns(offset, source, io))
  }

  writeZeroes(offset: number, length: number, io: ZeroIo): Completion {
    return this.#exclusively(offset, length, io, () => this.#zeroRuns(offset, length, io))
  }

  async discard(offset: number, length: number, io: Io): Promise<void> {
    const whole = this.#whole(offset, length, this.#map.clusterSize)
    if (whole.length === 0) return
    await this.#exclusively(whole.offset, whole.length, io, () =>
      this.#map.discard(whole.offset, whole.length, io, this.#backing !== undefined),
    )
  }

  flush(io: Io): Completion {
    return this.#map.flush(io)
  }

  async truncate(size: number, io: ResizeIo): Promise<void> {
    await this.#alone(io, async () => {
      const before = this.#map.size
      const taken = (io.preallocation ?? 'off') !== 'off'
      if (size < before && taken) throw shrinkingPreallocation()
      await this.#map.truncate(size, io)
      // Neither what the last cluster held behind the former end, from before the disk was cut off
      // there, nor what the backing file holds behind it was part of this disk.
      const shown = taken ? 0 : (this.#backing?.size ?? 0)
      const stale = Math.max(alignUp(before, this.#map.clusterSize), shown)
      const end = Math.min(size, stale)
      if (end > before) {
        const zeroIo = { ...plainWriteIo, signal: io.signal, mayUnmap: false, fastOnly: false }
        await this.#zeroRuns(before, end - before, zeroIo)
      }
    })
  }

  extentAt(offset: number, length: number, io: Io): Extent | Promise<Extent> {
    const run = this.#map.map(offset, length, io)
    return run instanceof Promise ? run.then(withoutHidden) : withoutHidden(run)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#lock.idle()
    await this.#map[Symbol.asyncDispose]()
  }

  /** The first run, when the map knows it at once; otherwise it is asked again under the lock. */
  #mapNow(offset: number, length: number, io: Io): Extent | undefined {
    const run = this.#map.map(offset, length, io)
    if (!(run instanceof Promise)) return run
    // It has begun to load the table. If that fails, who asks again will hear of it.
    run.catch(() => {})
    return undefined
  }

  async #alone<T>(io: Io, work: () => Promise<T>): Promise<T> {
    return await this.#lock.during(0, Number.MAX_SAFE_INTEGER, true, io.signal, work)
  }

  #runAlone(snapshots: InternalSnapshots): InternalSnapshots {
    return {
      create: (snapshot, io) => this.#alone(io, () => snapshots.create(snapshot, io)),
      apply: (selector, io) => this.#alone(io, () => snapshots.apply(selector, io)),
      delete: (selector, io) => this.#alone(io, () => snapshots.delete(selector, io)),
      open: (selector, io) => this.#alone(io, () => snapshots.open(selector, io)),
    }
  }

  /** Where what `offset` belongs to ends: the disk, or the state of a machine behind it. */
  #endOf(offset: number): number {
    return this.#isState(offset) ? Number.MAX_SAFE_INTEGER : this.#map.size
  }

  #isState(offset: number): boolean {
    const { stateArea } = this.#map
    return stateArea !== undefined && offset >= this.#map.size && offset >= stateArea.offset
  }

  #exclusively(offset: number, length: number, io: Io, work: () => Completion): Completion {
    const start = alignDown(offset, this.#map.clusterSize)
    const end = alignUp(offset + length, this.#map.clusterSize)
    return this.#lock.during(start, end - start, true, io.signal, work)
  }

  /** The part of a range that consists of whole units; the disk's last counts although cut. */
  #whole(offset: number, length: number, unit: number): ByteRange {
    const end = offset + length
    const first = alignUp(offset, unit)
    const last = end === this.#map.size ? end : alignDown(end, unit)
    return { offset: first, length: Math.max(0, last - first) }
  }

  /** The part of a range that can be marked as zero: an encoded cluster only as a whole. */
  async #markable(offset: number, length: number, io: Io): Promise<ByteRange> {
    const { zeroClusters, clusterSize, subclusterSize } = this.#map
    if (!zeroClusters) return { offset: offset + length, length: 0 }
    const { offset: first, length: inside } = this.#whole(offset, length, subclusterSize)
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

  async #readRuns(offset: number, target: Uint8Array, io: Io): Promise<void> {
    let pending: Promise<void>[] = []
    let at = 0
    try {
      while (at < target.length) {
        const mapped = this.#map.map(offset + at, target.length - at, io)
        const run = mapped instanceof Promise ? await mapped : mapped
        const length = Math.min(run.length, target.length - at)
        const done = this.#readRun(run, offset + at, target.subarray(at, at + length), io)
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

  #readRun(run: Extent, offset: number, target: Uint8Array, io: Io): Completion {
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
        return readBacking(this.#isState(offset) ? undefined : this.#backing, offset, target, io)
    }
  }

  /** Without a promise where a write into one new cluster needs none. */
  #writeRuns(offset: number, source: Uint8Array, io: WriteIo): Completion {
    const written = this.#writeNewNow(offset, source, io)
    if (written === source.length) return
    return this.#writeRest(offset, source, written, io)
  }

  async #writeRest(
    offset: number,
    source: Uint8Array,
    written: number | Promise<number>,
    io: WriteIo,
  ): Promise<void> {
    let at = await written
    while (at < source.length) {
      const run = await this.#map.map(offset + at, source.length - at, io)
      const length = Math.min(run.length, source.length - at)
      const part = source.subarray(at, at + length)
      if (inPlace(run)) {
        await run.host.layer.debugEvent?.('write_aio')
        await run.host.layer.write(run.host.offset, part, io)
        at += length
      } else {
        at += await this.#writeNew(offset + at, part, io)
      }
    }
  }

  /** Writes the beginning of `source` if new clusters are needed there; returns how many bytes. */
  #writeNewNow(offset: number, source: Uint8Array, io: WriteIo): number | Promise<number> {
    if (this.#map.debugEvent) return 0
    const run = this.#mapNow(offset, source.length, io)
    if (!run || inPlace(run)) return 0
    const part = run.length < source.length ? source.subarray(0, run.length) : source
    const allocated = this.#map.allocate(offset, part.length, io)
    return allocated instanceof Promise
      ? allocated.then((allocation) => this.#writeInto(allocation, offset, part, io))
      : this.#writeInto(allocated, offset, part, io)
  }

  /** Writes the first part of `source` into new clusters; returns how many bytes that were. */
  async #writeNew(offset: number, source: Uint8Array, io: WriteIo): Promise<number> {
    await this.#map.debugEvent?.('cluster_alloc')
    const allocation = await this.#map.allocate(offset, source.length, io)
    return await this.#writeInto(allocation, offset, source, io)
  }

  #writeInto(
    allocation: Allocation,
    offset: number,
    source: Uint8Array,
    io: WriteIo,
  ): number | Promise<number> {
    const { guest } = allocation
    const length = Math.min(source.length, guest.offset + guest.length - offset)
    let filled: Completion
    try {
      filled = this.#fill.fill(allocation, offset, source.subarray(0, length), io)
    } catch (error) {
      filled = Promise.reject(error)
    }
    if (filled instanceof Promise) return linkAfter(filled, allocation, length, io)
    const linked = allocation.link(io)
    return linked instanceof Promise ? linked.then(() => length) : length
  }

  /** Whether tables in memory say that a range reads as zeroes. */
  #isBlank(offset: number, length: number, io: Io): boolean {
    const end = Math.min(offset + length, this.#endOf(offset))
    for (let at = offset; at < end; ) {
      const run = this.#mapNow(at, end - at, io)
      if (!run || !this.#readsAsZero(run, at)) return false
      at += run.length
    }
    return true
  }

  /** Fills `target` with what a range reads as now; zeroes behind the end of the disk. */
  #readShown(offset: number, target: Uint8Array, io: Io): Completion {
    const inside = Math.min(target.length, Math.max(0, this.#endOf(offset) - offset))
    if (inside < target.length) target.fill(0, inside)
    if (inside === 0) return
    const part = target.subarray(0, inside)
    const run = this.#mapNow(offset, inside, io)
    return run && run.length >= inside
      ? this.#readRun(run, offset, part, io)
      : this.#readRuns(offset, part, io)
  }

  async #zeroRuns(offset: number, length: number, io: ZeroIo): Promise<void> {
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
      if (!this.#readsAsZero(run, at)) throw slowZeroes(at)
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
      if (!this.#readsAsZero(run, at)) {
        const part = Math.min(runEnd - at, this.#map.limits.maxTransfer)
        await this.#writeRuns(at, new Uint8Array(part), io)
        at += part
      } else {
        at = runEnd
      }
    }
  }

  #readsAsZero(run: Extent, offset: number): boolean {
    if (run.kind === 'zero') return true
    if (run.kind !== 'backing') return false
    return this.#isState(offset) || offset >= (this.#backing?.size ?? 0)
  }

  #writeEncoded(
    encode: (offset: number, source: Uint8Array, io: WriteIo) => Completion,
    offset: number,
    source: Uint8Array,
    io: WriteIo,
  ): Completion {
    return this.#exclusively(offset, source.length, io, () => encode(offset, source, io))
  }
}

function capabilitiesOf(map: ClusterMap): Capabilities {
  return {
    write: !map.readOnly,
    resize: !map.readOnly,
    backing: true,
    fua: 'emulated',
    get writeZeroes() {
      return map.zeroClusters ? 'native' : 'emulated'
    },
    discard: 'native',
    extents: 'native',
    zeroInit: true,
  }
}

/** What blkdebug is told before a run is read. */
const readEvents = {
  data: 'read_aio',
  backing: 'read_backing_aio',
  encoded: 'read_compressed',
  zero: undefined,
} as const

/** Whether somebody below wants to know what is done, so that it takes the long way. */
function watched(host: HostRange): boolean {
  return host.layer.debugEvent !== undefined
}

type InPlace = Extent & { readonly host: HostRange }

function inPlace(run: Extent): run is InPlace {
  return run.kind === 'data' && run.host?.writable === true
}

/** Links what was filled, or gives the space back. */
async function linkAfter(
  filled: Promise<void>,
  allocation: Allocation,
  length: number,
  io: WriteIo,
): Promise<number> {
  try {
    await filled
  } catch (error) {
    await allocation.abandon()
    throw error
  }
  await allocation.link(io)
  return length
}

function hostOf(run: Extent & { kind: 'data' }): HostRange {
  if (run.host) return run.host
  throw new TypeError('a cluster map reported data without saying where it lies')
}

/** Reads from a backing file, which may be absent or shorter than the overlay: zeroes then. */
export function readBacking(
  backing: BlockLayer | undefined,
  offset: number,
  target: Uint8Array,
  io: Io,
): Completion {
  const inside = Math.min(target.length, Math.max(0, (backing?.size ?? 0) - offset))
  if (inside < target.length) target.fill(0, inside)
  if (backing && inside > 0) return backing.read(offset, target.subarray(0, inside), io)
}

function shrinkingPreallocation(): BlockError {
  return new BlockError('INVALID_ARGUMENT', "Preallocation can't be used for shrinking an image", {
    errno: 'EINVAL',
  })
}

function slowZeroes(offset: number): BlockError {
  return new BlockError('UNSUPPORTED', `zeroes at ${offset} cannot be written the fast way`, {
    offset,
    errno: 'ENOTSUP',
  })
}

/** Waits for all, then rejects with the first failure. */
async function allSettled(pending: readonly Promise<void>[]): Promise<void> {
  if (pending.length === 0) return
  for (const result of await Promise.allSettled(pending)) {
    if (result.status === 'rejected') throw result.reason
  }
}
