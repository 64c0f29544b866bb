/**
 * The one seam between callers and layers. Whatever a caller asks for is checked here against the
 * disk's bounds, kept apart from conflicting requests, tracked for draining, and counted; what the
 * layer's limits do not allow is aligned and split in `fitted-layer.ts`. So no driver has to.
 *
 * A request that the layer answers on the spot, the usual case for small ones, passes through
 * without a promise and without being tracked: nothing can happen while it runs.
 */
import diagnostics from 'node:diagnostics_channel'
import type { CompressedWriter, VmState } from '../block/abilities.ts'
import type { DebugEvent } from '../block/debug.ts'
import type { BlockDriver, Naming, NodeOptions, OpenFlags } from '../block/driver.ts'
import { joinExtents } from '../block/extent.ts'
import {
  type BlockLayer,
  type Completion,
  type Extent,
  type Io,
  neverAborted,
  plainIo,
  plainWriteIo,
  plainZeroIo,
  type ResizeIo,
  type WriteIo,
  type ZeroIo,
} from '../block/layer.ts'
import { alignDown, alignUp, type ByteRange, maxDiskSize } from '../bytes/range.ts'
import { isZero } from '../bytes/zero.ts'
import { BlockError } from '../errors.ts'
import { BitmapTable } from './bitmap-table.ts'
import { OperationBlockers } from './blockers.ts'
import type { Edge } from './edge.ts'
import { FittedLayer } from './fitted-layer.ts'
import { storeBitmaps } from './persistent-bitmaps.ts'
import { populate, populatedRange } from './populate.ts'
import { RequestFlow } from './request-flow.ts'
import { NodeStatistics, type RequestKind } from './statistics.ts'

/** One message per request, when somebody listens: `{ node, kind, offset, length }`. */
const requestChannel = diagnostics.channel('block:request')

/** `{ node, exceeded, threshold }`, when a write goes beyond a node's `writeThreshold`. */
export const thresholdChannel = diagnostics.channel('block:write-threshold')

/** `{ node }`, when the size of a node may have changed, and with it that of those above it. */
export const resizedChannel = diagnostics.channel('block:resized')

/** For what changes the disk as a whole. */
const everything: ByteRange = { offset: 0, length: Number.MAX_SAFE_INTEGER }

export type DetectZeroes = 'off' | 'on' | 'unmap'
export type DiscardMode = 'ignore' | 'unmap'

/** Options that every node has, whatever its driver. */
export interface NodeSettings {
  readonly name: string
  readonly driver: string
  /** Later nodes have greater ones: a node comes behind its `file`, before other children opened with it. */
  readonly age: number
  /** What kind of driver it is; `filter` for layers that code has put into the graph. */
  readonly kind: BlockDriver['kind']
  readonly flags: OpenFlags
  /** Whether it was said if it is read-only; otherwise that follows from its parent. */
  readonly accessGiven?: boolean
  /** Whether discards reach the layer. */
  readonly discard: DiscardMode
  readonly detectZeroes: DetectZeroes
  /** The driver's own options, as given; none of a layer that was made by code. */
  readonly options?: NodeOptions
  readonly naming?: Naming
}

/** What `reopen` can change of a node. */
export type NodeConfiguration = Pick<NodeSettings, 'flags' | 'discard' | 'detectZeroes' | 'options'>

export class BlockNode implements AsyncDisposable {
  readonly name: string
  readonly driver: string
  readonly accessGiven: boolean
  /** Where it is in lists of nodes. */
  readonly age: number
  /** Whether it shows its child's data unchanged, at the same place. */
  readonly isFilter: boolean
  readonly naming: Naming | undefined
  readonly statistics = new NodeStatistics()
  readonly layer: BlockLayer
  /** Edges by name: `file`, `backing`, … Changed by the graph only. */
  readonly children = new Map<string, Edge>()
  /** Edges of those who use this node. Changed by the graph only. */
  readonly parents = new Set<Edge>()
  /** Who is told of what changes: the dirty bitmaps of this node, and jobs that follow it. */
  readonly bitmaps = new BitmapTable(this)
  /** What may not be done to it, because of jobs. */
  readonly blockers: OperationBlockers
  #settings: NodeConfiguration
  readonly #fitted: FittedLayer
  readonly #flow: RequestFlow = new RequestFlow(this)
  #closed = false
  #writeThreshold = Number.POSITIVE_INFINITY

  constructor(settings: NodeSettings, layer: BlockLayer) {
    this.name = settings.name
    this.driver = settings.driver
    this.age = settings.age
    this.isFilter = settings.kind === 'filter'
    this.naming = settings.naming
    this.blockers = new OperationBlockers(settings.name)
    this.#settings = settings
    this.accessGiven = settings.accessGiven ?? false
    this.layer = layer
    this.#fitted = new FittedLayer(settings.name, layer, (io) => this.#flushLayer(io, true))
  }

  get size(): number {
    return this.layer.size
  }

  /** Offset beyond which a write is told of, once, on `thresholdChannel`; 0 is none. */
  get writeThreshold(): number {
    return this.#writeThreshold === Number.POSITIVE_INFINITY ? 0 : this.#writeThreshold
  }

  set writeThreshold(offset: number) {
    this.#writeThreshold = offset === 0 ? Number.POSITIVE_INFINITY : offset
  }

  get flags(): OpenFlags {
    return this.#settings.flags
  }

  get detectZeroes(): DetectZeroes {
    return this.#settings.detectZeroes
  }

  get discardMode(): DiscardMode {
    return this.#settings.discard
  }

  /** The driver's own options, as given. */
  get options(): NodeOptions {
    return this.#settings.options ?? {}
  }

  get settings(): NodeConfiguration {
    return this.#settings
  }

  /**
   * How an inactive node will be open when it is active again; undefined while it is active. Set by
   * the graph only, see `activity.ts`.
   */
  wanted: OpenFlags | undefined

  get active(): boolean {
    return this.wanted === undefined
  }

  /** For the graph: what holds from now on. */
  configure(settings: NodeConfiguration): void {
    this.#settings = { ...this.#settings, ...settings }
  }

  /** For the graph: how the node is open from now on. */
  setFlags(flags: OpenFlags): void {
    this.#settings = { ...this.#settings, flags }
  }

  get readOnly(): boolean {
    return this.flags.readOnly || !this.layer.capabilities.write
  }

  /** Fills `target` from `offset`, any alignment. The buffer is the node's until this settles. */
  read(offset: number, target: Uint8Array, io: Partial<Io> = plainIo): Completion {
    const { length } = target
    const full = io.signal ? (io as Io) : plainIo
    this.#enter('read', offset, length, full.signal)
    if (length === 0) return
    if (this.#fitted.fits(offset, length) && !this.#flow.blocks(offset, length)) {
      return this.#flow.start('read', offset, length, full, () =>
        this.layer.read(offset, target, full),
      )
    }
    return this.#flow.track('read', offset, length, false, full, () =>
      this.#fitted.read(offset, target, full),
    )
  }

  /** Writes `source` at `offset`, any alignment. The buffer is the node's until this settles. */
  write(offset: number, source: Uint8Array, io: Partial<WriteIo> = plainWriteIo): Completion {
    const { length } = source
    const full = isComplete(io) ? io : { ...plainWriteIo, ...io }
    this.#enterWrite('write', offset, length, full.signal)
    if (length === 0) return
    if (this.detectZeroes !== 'off' && isZero(source)) {
      return this.writeZeroes(offset, length, { ...full, mayUnmap: this.detectZeroes === 'unmap' })
    }
    this.#noteHighest(offset + length)
    const plain = this.#fitted.fits(offset, length) && !(full.fua && !this.#fitted.nativeFua)
    if (plain && !this.#flow.blocks(offset, length)) {
      return this.#flow.start('write', offset, length, full, () =>
        this.layer.write(offset, source, full),
      )
    }
    return this.#flow.modify('write', offset, length, full, () =>
      this.#fitted.write(offset, source, full),
    )
  }

  /** Makes a range read as zeroes, the cheapest way that `io` permits. */
  writeZeroes(offset: number, length: number, io: Partial<ZeroIo> = plainZeroIo): Completion {
    // Deallocating is allowed only where the user of the node permits discards.
    const mayUnmap = io.mayUnmap === true && this.discardMode === 'unmap'
    const full = { ...plainZeroIo, ...io, mayUnmap }
    this.#enterWrite('writeZeroes', offset, length, full.signal)
    if (length === 0) return
    this.#noteHighest(offset + length)
    return this.#flow.modify('writeZeroes', offset, length, full, () =>
      this.#fitted.writeZeroes(offset, length, full),
    )
  }

  /** A hint that the range is not needed; does nothing unless the node was opened with discards. */
  discard(offset: number, length: number, io: Partial<Io> = plainIo): Completion {
    const full = { ...plainIo, ...io }
    this.#enterWrite('discard', offset, length, full.signal)
    const { capabilities, limits } = this.layer
    if (this.discardMode === 'ignore' || capabilities.discard === 'none') return
    const start = alignUp(offset, limits.discardAlignment)
    const end = offset + length
    const last = end === this.size ? end : alignDown(end, limits.discardAlignment)
    // As in QEMU: whoever asks for a discard has given up what is there.
    if (last <= start) return this.#flow.noteChange(offset, length, full)
    return this.#flow.track('discard', offset, length, false, full, () =>
      this.layer.discard(start, last - start, full),
    )
  }

  /** Writes units compressed, where the format can; counted and tracked as any other write. */
  get compressed(): CompressedWriter | undefined {
    const { compressed } = this.layer
    if (!compressed) return undefined
    return {
      unit: compressed.unit,
      write: (offset, source, io) => {
        this.#enterWrite('write', offset, source.length, io.signal)
        this.#noteHighest(offset + source.length)
        return this.#flow.track('write', offset, source.length, false, io, () =>
          compressed.write(offset, source, io),
        )
      },
    }
  }

  /** The state of a machine, where the format can keep one. Tracked and counted as requests are. */
  get vmState(): VmState | undefined {
    const { vmState } = this.layer
    if (!vmState) return undefined
    return {
      read: (offset, target, io) => {
        this.#checkOpen()
        const read = () => vmState.read(offset, target, io)
        return this.#flow.track('read', this.size + offset, target.length, false, io, read)
      },
      write: (offset, source, io) => {
        this.#checkOpen()
        this.#checkWritable()
        const write = () => vmState.write(offset, source, io)
        return this.#flow.track('write', this.size + offset, source.length, false, io, write)
      },
    }
  }

  /** Everything that was written, and has settled, is on stable storage afterwards. */
  flush(io: Partial<Io> = plainIo): Completion {
    this.#checkOpen()
    if (this.flags.noFlush || this.readOnly) return
    if (!this.#flow.unflushed) return this.#tell('flush_to_os')
    const full = { ...plainIo, ...io }
    // Of the moment of the request: what comes while it waits need not be covered.
    const { changes } = this.#flow
    return this.#flow.track('flush', 0, 0, false, full, async () => {
      await this.#flushLayer(full, false)
      this.#flow.flushedTo(changes)
    })
  }

  /** See `BlockLayer.ioctl`. Rejects with `UNSUPPORTED` where there is no device. */
  async ioctl(request: number, argument: Uint8Array | number): Promise<number> {
    this.#checkOpen()
    const { layer } = this
    if (!layer.ioctl) {
      throw new BlockError('UNSUPPORTED', `${this.name}: ${this.driver} passes no ioctl on`, {
        node: this.name,
        errno: 'ENOTSUP',
      })
    }
    return await this.#flow.passing(layer.ioctl(request, argument))
  }

  /** Changes the size of the disk; waits for the requests in flight and runs alone. */
  async truncate(size: number, io: Partial<ResizeIo> = plainIo): Promise<void> {
    this.#checkOpen()
    this.#checkWritable()
    if (!Number.isInteger(size) || size < 0) {
      throw this.#nonsense(`${size} is not a size in bytes`)
    }
    if (size > maxDiskSize) {
      const message = `a disk can have ${maxDiskSize} bytes at most, which are 8 PiB`
      throw new BlockError('OUT_OF_RANGE', message, { node: this.name, errno: 'EFBIG' })
    }
    this.blockers.check('resize')
    if (!this.layer.capabilities.resize && !this.layer.sizeIsGiven) {
      throw new BlockError('UNSUPPORTED', `${this.name}: a ${this.driver} node cannot be resized`, {
        node: this.name,
        errno: 'ENOTSUP',
      })
    }
    this.bitmaps.checkResize()
    const full = { ...plainIo, ...io }
    try {
      await this.#flow.changing(everything, full.signal, () => this.layer.truncate(size, full))
    } finally {
      this.bitmaps.resize()
      resizedChannel.publish({ node: this.name })
    }
  }

  /** See `BlockLayer.extend`; for layers that have it. */
  async extend(end: number, io: Io): Promise<void> {
    this.#checkOpen()
    this.#checkWritable()
    if (end <= this.size) return
    await this.#flow.changing(everything, io.signal, () => this.layer.extend?.(end, io))
    resizedChannel.publish({ node: this.name })
  }

  /** See `BlockLayer.occupy`; for layers that have it. */
  async occupy(offset: number, length: number, io: Io): Promise<void> {
    this.#checkOpen()
    this.#checkWritable()
    this.#checkRange(offset, length)
    const { layer } = this
    if (layer.occupy) await this.#flow.passing(layer.occupy(offset, length, io))
  }

  /** The first run of one status at `offset`; see `BlockLayer.extentAt`. `length` is above 0. */
  extentAt(offset: number, length: number, io: Partial<Io> = plainIo): Extent | Promise<Extent> {
    this.#checkOpen()
    this.#checkRange(offset, length)
    return this.layer.extentAt(offset, length, { ...plainIo, ...io })
  }

  /** Runs of a range (the whole disk unless given), neighbours of the same status joined. */
  async *extents(
    range: Partial<ByteRange> = {},
    io: Partial<Io> = plainIo,
  ): AsyncGenerator<Extent> {
    const start = range.offset ?? 0
    const end = range.length === undefined ? this.size : start + range.length
    let run: Extent | undefined
    for (let at = start; at < end; ) {
      const next = await this.extentAt(at, end - at, io)
      at = next.offset + next.length
      const joined = run && joinExtents(run, next)
      if (run && !joined) yield run
      run = joined ?? next
    }
    if (run) yield run
  }

  /**
   * Runs `work` while no other request touches the range: for those who read, decide and write
   * back (copy-on-read, a job that replaces data in place).
   */
  async serialised<T>(range: ByteRange, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    return await this.#flow.serialised(range, signal, work)
  }

  /** Copy-on-read: see `populate.ts`. */
  async populate(offset: number, length: number, io: Partial<Io> = plainIo): Promise<void> {
    this.#checkOpen()
    this.#checkWritable()
    this.#checkRange(offset, length)
    const full = { ...plainIo, ...io }
    const range = populatedRange(this.layer, offset, length)
    await this.#flow.changing(range, full.signal, () => populate(this.layer, range, full))
  }

  /** Settles when no request is in flight on this node. */
  idle(): Promise<void> {
    return this.#flow.idle()
  }

  /** Closes the layer, once; the graph has taken away all parents before. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    this.layer.drainBegins?.()
    await this.#flow.idle()
    try {
      if (this.active) await storeBitmaps(this)
    } finally {
      await this.layer[Symbol.asyncDispose]()
    }
  }

  /** Flushes the layer, and lets a blkdebug below it know. */
  async #flushLayer(io: Io, forWrite: boolean): Promise<void> {
    if (this.flags.noFlush) return
    const { changes, unflushed } = this.#flow
    await this.#tell('flush_to_os')
    if (unflushed) await this.#tell('flush_to_disk')
    const part = forWrite ? (unflushed ? 'later' : 'first') : undefined
    await this.layer.flush({ ...io, forWrite: part })
    this.#flow.flushedTo(changes)
  }

  /** Tells a blkdebug, if that is what the node stands on. */
  #tell(event: DebugEvent): Completion {
    for (const { role, debugEvent } of this.children.values()) {
      if (debugEvent && (role === 'file' || role === 'filtered')) return debugEvent(event)
    }
  }

  #enter(kind: RequestKind, offset: number, length: number, signal: AbortSignal): void {
    this.#checkOpen()
    this.#checkRange(offset, length, kind)
    if (signal !== neverAborted) signal.throwIfAborted()
    if (requestChannel.hasSubscribers) {
      requestChannel.publish({ node: this.name, kind, offset, length })
    }
  }

  #enterWrite(kind: RequestKind, offset: number, length: number, signal: AbortSignal): void {
    this.#enter(kind, offset, length, signal)
    this.#checkWritable()
  }

  #checkOpen(): void {
    if (this.#closed) {
      throw new BlockError('CLOSED', `${this.name} is closed`, { node: this.name })
    }
  }

  #checkWritable(): void {
    if (this.readOnly) {
      throw new BlockError('READ_ONLY', `${this.name} is read-only`, {
        node: this.name,
        errno: 'EPERM',
      })
    }
  }

  #checkRange(offset: number, length: number, kind?: RequestKind): void {
    if (
      !Number.isSafeInteger(offset + length) ||
      !Number.isInteger(offset) ||
      offset < 0 ||
      length < 0
    ) {
      throw this.#nonsense(`${offset}+${length} is not a range of bytes`)
    }
    if (offset + length > this.layer.size) {
      if (kind) this.statistics[kind].invalid++
      if (this.layer.medium?.wasInserted === false) throw noMedium(this.name)
      throw new BlockError(
        'OUT_OF_RANGE',
        `${this.name}: ${offset}+${length} reaches behind the end at ${this.layer.size}`,
        { node: this.name, offset, errno: 'EIO' },
      )
    }
  }

  #nonsense(message: string): BlockError {
    return new BlockError('INVALID_ARGUMENT', message, { node: this.name, errno: 'EINVAL' })
  }

  /** Tells once that a write goes beyond the threshold. */
  #passThreshold(end: number): void {
    const threshold = this.#writeThreshold
    this.#writeThreshold = Number.POSITIVE_INFINITY
    thresholdChannel.publish({ node: this.name, exceeded: end - threshold, threshold })
  }

  #noteHighest(end: number): void {
    if (end > this.statistics.highestWritten) this.statistics.highestWritten = end
    if (end > this.#writeThreshold) this.#passThreshold(end)
  }
}

function noMedium(node: string): BlockError {
  return new BlockError('IO', `${node}: no medium`, { node, errno: 'ENOMEDIUM' })
}

/** Whether nothing has to be filled in, which saves the hot path an object. */
function isComplete(io: Partial<WriteIo>): io is WriteIo {
  return io.signal !== undefined && io.fua !== undefined && io.unchanged !== undefined
}
