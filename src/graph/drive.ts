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
import { type Deferred, deferred } from '../block/deferred.ts'
import { decide, type ErrorAction, type ErrorPolicy, isNoSpace } from '../block/error-policy.ts'
import type { Io, WriteIo, ZeroIo } from '../block/layer.ts'
import { BlockError, type BlockErrorCode } from '../errors.ts'
import type { Edge } from './edge.ts'
import type { Graph } from './graph.ts'
import type { BlockNode } from './node.ts'
import { type DriveRequest, DriveStatistics } from './statistics.ts'

export interface DriveOptions {
  /** As messages name it. */
  readonly name: string
  /** Never writes to its medium. */
  readonly readOnly?: boolean
  /** Media can be ejected and changed; otherwise the first one stays. */
  readonly removable?: boolean
  /** `report` unless given. What is ignored leaves the reader's buffer as it is. */
  readonly onReadError?: ErrorPolicy
  /** For everything but reads; `enospc` unless given: waits for room, and reports the rest. */
  readonly onWriteError?: ErrorPolicy
}

export interface DriveError {
  readonly operation: 'read' | 'write'
  readonly action: ErrorAction
  readonly error: unknown
}

interface DriveEvents {
  /** A request failed; with `stop` it waits for `resume`, and so do all that come. */
  requestFailed: [DriveError]
  /** The medium came out (true), or one was put in. */
  tray: [open: boolean]
  /** The guest may eject its medium itself, unless locked. */
  locked: [boolean]
}

/** The caller's mistakes: the medium has nothing to do with them. */
const mistakes: ReadonlySet<BlockErrorCode> = new Set([
  'INVALID_ARGUMENT',
  'OUT_OF_RANGE',
  'READ_ONLY',
  'PERMISSION',
  'UNSUPPORTED',
])

export class Drive extends EventEmitter<DriveEvents> implements AsyncDisposable {
  readonly name: string
  readonly statistics = new DriveStatistics()
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
  }

  /** The medium's node. */
  get node(): BlockNode | undefined {
    return this.#edge?.node
  }

  get inserted(): boolean {
    return this.#edge !== undefined
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
  lock(locked: boolean): void {
    if (this.#locked === locked) return
    this.#locked = locked
    this.emit('locked', locked)
  }

  /** Tries again what failed and was stopped, and lets requests through. */
  resume(): void {
    this.#ioStatus = 'ok'
    this.#stopped?.resolve()
    this.#stopped = undefined
  }

  read(offset: number, target: Uint8Array, io?: Partial<Io>): Promise<void> {
    return this.#request('read', target.length, io, (edge) => edge.read(offset, target, io))
  }

  write(offset: number, source: Uint8Array, io?: Partial<WriteIo>): Promise<void> {
    return this.#request('write', source.length, io, (edge) => edge.write(offset, source, io))
  }

  writeZeroes(offset: number, length: number, io?: Partial<ZeroIo>): Promise<void> {
    return this.#request('write', length, io, (edge) => edge.writeZeroes(offset, length, io))
  }

  discard(offset: number, length: number, io?: Partial<Io>): Promise<void> {
    return this.#request('discard', length, io, (edge) => edge.discard(offset, length, io))
  }

  flush(io?: Partial<Io>): Promise<void> {
    return this.#request('flush', 0, io, (edge) => edge.flush(io))
  }

  /** Takes the medium out, locked or not. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.#inTurn(() => this.#release())
  }

  async #request(
    kind: DriveRequest,
    bytes: number,
    io: Partial<Io> | undefined,
    work: (edge: Edge) => void | Promise<void>,
  ): Promise<void> {
    const began = performance.now()
    for (;;) {
      while (this.#stopped) await this.#stopped.promise
      const edge = this.#edge
      if (!edge) {
        this.statistics.count(kind, bytes, began, false)
        throw this.#refusal('IO', `Drive '${this.name}' has no medium`, 'ENOMEDIUM')
      }
      try {
        await this.#during(async () => work(edge))
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

  /** What to do about an error; stops the drive where that is it. */
  #decide(kind: DriveRequest, error: unknown, signal: AbortSignal | undefined): ErrorAction {
    if (signal?.aborted) return 'report'
    if (error instanceof BlockError && mistakes.has(error.code)) return 'report'
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
