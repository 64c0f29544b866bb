/**
 * The engine of all cluster formats: it asks a `ClusterMap` where bytes lie and moves them. Reads
 * follow the runs of the map; writes go in place where that is allowed and otherwise through an
 * allocation: data first, copied-on-write surroundings with it, then the link.
 *
 * Requests on one cluster: any number that neither allocate nor release run together; one that
 * does runs alone. So no cluster is freed, and given to somebody else, under a request that is
 * still reading or writing it.
 */
import { alignDown, alignUp } from '../bytes/range.ts'
import type {
  BackingLink,
  CompressedWriter,
  ImageAmend,
  ImageCheck,
  ImageFacts,
  InternalSnapshots,
  PersistentBitmaps,
  VmState,
} from './abilities.ts'
import { withoutHidden } from './cipher-layer.ts'
import { ClusterFill } from './cluster-fill.ts'
import type { Allocation, ClusterMap } from './cluster-map.ts'
import { ClusterResize } from './cluster-resize.ts'
import { ClusterView } from './cluster-view.ts'
import { ClusterZeroes, wholeUnits } from './cluster-zeroes.ts'
import type {
  BlockLayer,
  Capabilities,
  Completion,
  Extent,
  HostRange,
  Io,
  Limits,
  ResizeIo,
  WriteIo,
  ZeroIo,
} from './layer.ts'
import { RangeLock } from './range-lock.ts'
import { type Alone, backingLinkAlone, bitmapsAlone, snapshotsAlone } from './run-alone.ts'
import { vmStateIn } from './vm-state.ts'

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
  readonly #view: ClusterView
  readonly #zeroes: ClusterZeroes
  readonly #resize: ClusterResize

  /** Takes over `map` and disposes it; `backing` belongs to the graph. */
  constructor(map: ClusterMap, backing: BlockLayer | undefined) {
    this.#map = map
    this.#view = new ClusterView(map, backing)
    this.#fill = new ClusterFill(map, this.#view)
    const write = (offset: number, source: Uint8Array, io: WriteIo) =>
      this.#writeRuns(offset, source, io)
    this.#zeroes = new ClusterZeroes(map, this.#view, write)
    this.#resize = new ClusterResize(map, this.#view, this.#zeroes, write)
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
    this.check = map.abilities.check
    const { stateArea, abilities } = map
    const { snapshots, bitmaps, backingLink, amend, makeEmpty } = abilities
    const alone: Alone = (io, work) => this.#alone(io, work)
    if (snapshots) this.snapshots = snapshotsAlone(snapshots, alone)
    if (bitmaps) this.bitmaps = bitmapsAlone(bitmaps, alone)
    if (backingLink) this.backingLink = backingLinkAlone(backingLink, alone)
    if (stateArea) {
      const during = (work: () => Promise<void>, io: Io) => this.#alone(io, work)
      this.vmState = vmStateIn(stateArea, this, () => !map.readOnly, during)
    }
    if (amend) {
      const resize = (io: Io) => (size: number) => this.truncate(size, io)
      this.amend = {
        run: (options) => amend.run({ ...options, resize: options.resize ?? resize(options) }),
      }
    }
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
    this.#view.backing = backing
  }

  read(offset: number, target: Uint8Array, io: Io): Completion {
    const { length } = target
    if (!this.#lock.blocks(offset, length)) {
      const run = this.#view.mapNow(offset, length, io)
      if (run && run.length >= length && run.kind === 'data' && run.host && !watched(run.host)) {
        const done = run.host.layer.read(run.host.offset, target, io)
        return done instanceof Promise ? this.#lock.hold(offset, length, done) : undefined
      }
    }
    return this.#lock.during(offset, length, false, io.signal, () =>
      this.#view.readRuns(offset, target, io),
    )
  }

  write(offset: number, source: Uint8Array, io: WriteIo): Completion {
    const { length } = source
    if (!this.#lock.blocks(offset, length)) {
      const run = this.#view.mapNow(offset, length, io)
      if (run && run.length >= length && inPlace(run) && !watched(run.host)) {
        const done = run.host.layer.write(run.host.offset, source, io)
        return done instanceof Promise ? this.#lock.hold(offset, length, done) : undefined
      }
    }
    return this.#exclusively(offset, length, io, () => this.#writeRuns(offset, source, io))
  }

  writeZeroes(offset: number, length: number, io: ZeroIo): Completion {
    return this.#exclusively(offset, length, io, () => this.#zeroes.write(offset, length, io))
  }

  async discard(offset: number, length: number, io: Io): Promise<void> {
    const whole = wholeUnits(this.#map, offset, length, this.#map.clusterSize)
    if (whole.length === 0) return
    await this.#exclusively(whole.offset, whole.length, io, () =>
      this.#map.discard(whole.offset, whole.length, io, this.#view.backing !== undefined),
    )
  }

  flush(io: Io): Completion {
    return this.#map.flush(io)
  }

  async truncate(size: number, io: ResizeIo): Promise<void> {
    await this.#alone(io, () => this.#resize.to(size, io))
  }

  extentAt(offset: number, length: number, io: Io): Extent | Promise<Extent> {
    const run = this.#map.map(offset, length, io)
    return run instanceof Promise ? run.then(withoutHidden) : withoutHidden(run)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#lock.idle()
    await this.#map[Symbol.asyncDispose]()
  }

  async #alone<T>(io: Io, work: () => Promise<T>): Promise<T> {
    return await this.#lock.during(0, Number.MAX_SAFE_INTEGER, true, io.signal, work)
  }

  #exclusively(offset: number, length: number, io: Io, work: () => Completion): Completion {
    const start = alignDown(offset, this.#map.clusterSize)
    const end = alignUp(offset + length, this.#map.clusterSize)
    return this.#lock.during(start, end - start, true, io.signal, work)
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
    const run = this.#view.mapNow(offset, source.length, io)
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
