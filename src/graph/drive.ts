/**
 * A drive as a guest sees it, in front of the graph: a medium that can be taken out and another put
 * in, what becomes of requests that fail, and how long requests take. (QEMU's block backend.)
 *
 * ```ts
 * const drive = new Drive(graph, { name: 'cd0', readOnly: true, removable: true })
 * await drive.insert(node)
 * await drive.read(0, sector)
 * drive.lock(true) // the guest does; ejecting needs `force` from now on
 * ```
 */
import { EventEmitter } from 'node:events'
import { type Deferred, deferred, settledOrAborted } from '../block/deferred.ts'
import { decide, type ErrorAction, isNoSpace } from '../block/error-policy.ts'
import {
  type DiskPart,
  gathered,
  type JoinedParts,
  joinParts,
  scatter,
} from '../block/join-requests.ts'
import type { Io, WriteIo, ZeroIo } from '../block/layer.ts'
import { MiB } from '../bytes/range.ts'
import { BlockError, type BlockErrorCode, errnoOf } from '../errors.ts'
import { type DriveEvents, type DriveOptions, isMistake } from './drive-options.ts'
import type { Edge } from './edge.ts'
import type { Graph } from './graph.ts'
import type { BlockNode } from './node.ts'
import { type DriveRequest, DriveStatistics } from './statistics.ts'

/** Longest request that is made of several. */
const maxJoined = MiB

export class Drive extends EventEmitter<DriveEvents> implements AsyncDisposable {
  readonly name: string
  readonly statistics = new DriveStatistics()
  /** See `DriveOptions`. A guest may turn it off and on. */
  writeCache: boolean
  readonly #graph: Graph
  readonly #options: DriveOptions
  #edge: Edge | undefined
  #locked = false
  #ioStatus: 'ok' | 'failed' | 'nospace' = 'ok'
  /** While stopped, what requests wait for. */
  #stopped: Deferred | undefined
  /** Requests under way at the medium. */
  #inFlight = 0
  #idle: Deferred | undefined
  /** Settles when the last change of media is done. */
  #turn: Promise<unknown> = Promise.resolve()

  constructor(graph: Graph, options: DriveOptions) {
    super()
    this.#graph = graph
    this.#options = options
    this.name = options.name
    this.writeCache = options.writeCache ?? true
  }

  /** The medium's node. */
  get node(): BlockNode | undefined {
    return this.#edge?.node
  }

  get inserted(): boolean {
    return this.#edge !== undefined
  }

  /** The same, and where the medium is in a drive of this machine, whether it is in there now. */
  async hasMedium(): Promise<boolean> {
    if (!this.#edge) return false
    return (await this.#edge.medium?.isInserted()) ?? true
  }

  /** Bytes: requests are multiples. */
  get blockSize(): number {
    return this.#options.blockSize ?? 512
  }

  get locked(): boolean {
    return this.#locked
  }

  /** Why requests wait, if they do: until `resume`. */
  get ioStatus(): 'ok' | 'failed' | 'nospace' {
    return this.#ioStatus
  }

  /** Bytes; 0 without a medium. */
  get size(): number {
    return this.#edge?.size ?? 0
  }

  /** Puts a medium in. Fails when there is one. */
  insert(node: BlockNode): Promise<void> {
    return this.#inTurn(async () => {
      if (this.#edge) throw this.#refusal('BUSY', `Drive '${this.name}' has a medium already`)
      this.#edge = this.#attach(node)
      this.emit('tray', false)
    })
  }

  /**
   * Takes the medium out, when what is under way has ended; requests that were stopped fail. A drive
   * whose guest has locked it needs `force`.
   */
  eject({ force = false }: { readonly force?: boolean } = {}): Promise<void> {
    return this.#inTurn(async () => {
      this.#checkRemovable(force)
      await this.#release()
    })
  }

  /** Puts another medium in the place of the one there is. When it cannot be used, nothing changes. */
  change(node: BlockNode, { force = false }: { readonly force?: boolean } = {}): Promise<void> {
    return this.#inTurn(async () => {
      if (this.#edge) this.#checkRemovable(force)
      const next = this.#attach(node)
      await this.#release()
      this.#edge = next
      this.emit('tray', false)
    })
  }

  /** For the guest: whether its medium may be taken out. */
  async lock(locked: boolean): Promise<void> {
    if (this.#locked === locked) return
    this.#locked = locked
    this.emit('locked', locked)
    await this.#edge?.medium?.lock(locked)
  }

  /**
   * For the guest: moves the tray of the drive of this machine that the medium is in, if it is in
   * one. The node stays attached.
   */
  async moveTray(open: boolean): Promise<void> {
    if (open) this.#checkRemovable(false)
    await this.#edge?.medium?.eject(open)
    this.emit('tray', open)
  }

  /** `ioctl(2)` on the device that the medium is; `UNSUPPORTED` where it is none. */
  async ioctl(request: number, argument: Uint8Array | number): Promise<number> {
    const edge = this.#edge
    if (!edge) throw this.#noMedium()
    if (edge.ioctl) return await edge.ioctl(request, argument)
    throw this.#refusal('UNSUPPORTED', `Drive '${this.name}' is no device`, 'ENOTSUP')
  }

  /** Tries again what failed and was stopped, and lets requests through. */
  resume(): void {
    this.#ioStatus = 'ok'
    this.#stopped?.resolve()
    this.#stopped = undefined
  }

  read(offset: number, target: Uint8Array, io?: Partial<Io>): Promise<void> {
    const { length } = target
    return this.#request('read', offset, length, io, (edge) => edge.read(offset, target, io))
  }

  write(offset: number, source: Uint8Array, io?: Partial<WriteIo>): Promise<void> {
    const { length } = source
    return this.#request('write', offset, length, io, (edge) =>
      edge.write(offset, source, this.#cached(io)),
    )
  }

  /**
   * Reads several parts that are asked for together; those that follow each other by one request.
   * When this rejects, any of them may have been filled.
   */
  async readMany(parts: readonly DiskPart[], io?: Partial<Io>): Promise<void> {
    await this.#many('read', parts, async (joined) => {
      const single = joined.parts.length === 1
      const target = single ? joined.parts[0].bytes : Buffer.allocUnsafe(joined.length)
      await this.read(joined.offset, target, io)
      if (!single) scatter(joined, target)
    })
  }

  /**
   * Writes several parts that come together; those that follow each other by one request, and in
   * their order where they overlap. When this rejects, any of them may have been written.
   */
  async writeMany(parts: readonly DiskPart[], io?: Partial<WriteIo>): Promise<void> {
    await this.#many('write', parts, (joined) => this.write(joined.offset, gathered(joined), io))
  }

  writeZeroes(offset: number, length: number, io?: Partial<ZeroIo>): Promise<void> {
    return this.#request('write', offset, length, io, (edge) =>
      edge.writeZeroes(offset, length, this.#cached(io)),
    )
  }

  discard(offset: number, length: number, io?: Partial<Io>): Promise<void> {
    return this.#request('discard', offset, length, io, (edge) => edge.discard(offset, length, io))
  }

  flush(io?: Partial<Io>): Promise<void> {
    return this.#request('flush', 0, 0, io, (edge) => edge.flush(io))
  }

  /** Takes the medium out, locked or not. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.#inTurn(() => this.#release())
  }

  async #many(
    kind: 'read' | 'write',
    parts: readonly DiskPart[],
    work: (joined: JoinedParts) => Promise<void>,
  ): Promise<void> {
    const joined = joinParts(parts, maxJoined)
    if (!joined) {
      for (const part of parts) {
        await work({ offset: part.offset, length: part.bytes.length, parts: [part] })
      }
      return
    }
    this.statistics[kind].merged += parts.length - joined.length
    // All have settled when this does: the buffers are the caller's again.
    const outcomes = await Promise.allSettled(joined.map(work))
    for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason
  }

  #cached<T extends Partial<WriteIo>>(io: T | undefined): T | { readonly fua: true } | undefined {
    return this.writeCache ? io : { ...io, fua: true }
  }

  async #request(
    kind: DriveRequest,
    offset: number,
    bytes: number,
    io: Partial<Io> | undefined,
    work: (edge: Edge) => void | Promise<void>,
  ): Promise<void> {
    this.#checkAligned(kind, offset, bytes)
    const began = performance.now()
    for (;;) {
      try {
        await this.#going(io?.signal)
      } catch (error) {
        this.statistics.count(kind, bytes, began, false)
        throw error
      }
      const edge = this.#edge
      if (!edge) {
        this.statistics.count(kind, bytes, began, false)
        throw this.#noMedium()
      }
      try {
        await this.#during(async () => {
          // Another medium may have another size.
          await edge.medium?.isInserted()
          await work(edge)
        })
        this.statistics.count(kind, bytes, began, true)
        return
      } catch (error) {
        // What fails at a medium that is being taken out waits for nobody.
        const action = this.#edge === edge ? this.#decide(kind, error, io?.signal) : 'report'
        if (action === 'stop') continue
        this.statistics.count(kind, bytes, began, false)
        if (action === 'ignore') return
        throw error
      }
    }
  }

  /** Waits until nothing is stopped; an abort ends that. */
  async #going(signal: AbortSignal | undefined): Promise<void> {
    signal?.throwIfAborted()
    while (this.#stopped) await settledOrAborted(this.#stopped.promise, signal)
  }

  #checkAligned(kind: DriveRequest, offset: number, bytes: number): void {
    const { blockSize } = this
    if (offset % blockSize === 0 && bytes % blockSize === 0) return
    this.statistics[kind].invalid++
    const what = `${offset}+${bytes} is not a multiple of the ${blockSize} bytes of a block`
    throw this.#refusal('INVALID_ARGUMENT', `Drive '${this.name}': ${what}`, 'EINVAL')
  }

  #noMedium(): BlockError {
    return this.#refusal('IO', `Drive '${this.name}' has no medium`, 'ENOMEDIUM')
  }

  /** What to do about an error; stops the drive where that is it. */
  #decide(kind: DriveRequest, error: unknown, signal: AbortSignal | undefined): ErrorAction {
    if (signal?.aborted) return 'report'
    if (isMistake(error)) return 'report'
    // The drive of this machine is empty: there is nothing to wait for, nor to leave out.
    if (errnoOf(error) === 'ENOMEDIUM') return 'report'
    const operation = kind === 'read' ? 'read' : 'write'
    const { onReadError = 'report', onWriteError = 'enospc' } = this.#options
    const action = decide(kind === 'read' ? onReadError : onWriteError, error, operation)
    if (action === 'stop') {
      this.#ioStatus = isNoSpace(error) ? 'nospace' : 'failed'
      this.#stopped ??= deferred()
    }
    this.emit('requestFailed', { operation, action, error })
    return action
  }

  async #during(work: () => Promise<void>): Promise<void> {
    this.#inFlight++
    try {
      await work()
    } finally {
      if (--this.#inFlight === 0) this.#idle?.resolve()
    }
  }

  #attach(node: BlockNode): Edge {
    const { readOnly = false, name } = this.#options
    return this.#graph.attach(node, {
      description: `drive '${name}'`,
      uses: readOnly ? ['consistentRead'] : ['consistentRead', 'write'],
    })
  }

  async #release(): Promise<void> {
    const edge = this.#edge
    if (!edge) return
    this.#edge = undefined
    // Whoever was stopped finds no medium any more.
    this.resume()
    if (this.#inFlight > 0) {
      this.#idle = deferred()
      await this.#idle.promise
    }
    await edge[Symbol.asyncDispose]()
    this.emit('tray', true)
  }

  #checkRemovable(force: boolean): void {
    if (!this.#options.removable) {
      throw this.#refusal('UNSUPPORTED', `Device '${this.name}' is not removable`)
    }
    if (this.#locked && !force) {
      throw this.#refusal('BUSY', `Device '${this.name}' is locked and force was not specified`)
    }
  }

  #refusal(code: BlockErrorCode, message: string, errno?: string): BlockError {
    return new BlockError(code, message, { errno })
  }

  /** Changes of media come one after the other. */
  async #inTurn(work: () => Promise<void>): Promise<void> {
    const turn = this.#turn.then(work)
    this.#turn = turn.catch(() => {})
    await turn
  }
}
