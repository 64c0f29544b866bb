/**
 * The life of a job, the same for all of them. What it may do next depends on its status only
 * (`status.ts`).
 *
 * A job's work is one function. It reports progress, stops at pause points, asks what to do about
 * an error, and returns; finishing it (`complete`) or taking it back (`abort`) happens when the
 * job is finalized, so that jobs of one transaction end alike.
 */
import { EventEmitter } from 'node:events'
import { deferred } from '../block/deferred.ts'
import { decide, type ErrorAction, type ErrorPolicy, isNoSpace } from '../block/error-policy.ts'
import { RateLimit } from '../block/rate-limit.ts'
import { BlockError } from '../errors.ts'
import { Pauses } from './pauses.ts'
import { type JobProgress, watchProgress } from './progress.ts'
import { type JobStatus, type JobVerb, permitted, successors } from './status.ts'
import type { JobTransaction } from './transaction.ts'
import type { JobControl, JobWork } from './work.ts'

export type JobType = 'backup' | 'stream' | 'commit' | 'mirror' | 'create' | 'amend'

export interface JobOptions {
  readonly id: string
  readonly type: JobType
  /** Bytes a second; 0 is no limit. */
  readonly speed?: number
  /** Wait for `finalize` before the effects of the job become final. */
  readonly manualFinalize?: boolean
  /** Stay in the table, as `concluded`, until `dismiss`. */
  readonly manualDismiss?: boolean
  readonly onSourceError?: ErrorPolicy
  readonly onTargetError?: ErrorPolicy
  /** The jobs that this one ends like. */
  readonly transaction?: JobTransaction
}

interface JobEvents {
  status: [JobStatus]
  error: [{ readonly operation: 'read' | 'write'; readonly action: ErrorAction; error: unknown }]
  /** It can be completed now. */
  ready: []
  /** The work has ended, well or not; comes before `concluded`. Not of a job that never began. */
  completed: []
  cancelled: []
}

export class Job extends EventEmitter<JobEvents> {
  readonly id: string
  readonly type: JobType
  readonly options: JobOptions
  /** Settles when the job has concluded; rejects with the error that ended it. */
  readonly done: Promise<void>
  #status: JobStatus = 'created'
  #started = false
  /** Not where it was cancelled instead. */
  #began = false
  #current = 0
  #total = 0
  #error: unknown
  #requestError: unknown
  #cancelled = false
  readonly #work: JobWork
  readonly #abort = new AbortController()
  readonly #rate = new RateLimit()
  // Pausing: by request, by an error, by a drain.
  readonly #pauses = new Pauses()
  #userPaused = false
  #wasReady = false
  #ioStatus: 'ok' | 'failed' | 'nospace' = 'ok'
  /** Whether its effects are becoming final, which nothing stops any more. */
  #takesEffect = false
  /** How a job that is ready is to end. */
  #ending: 'complete' | 'leave' | undefined
  /** Settles when something is asked of the job. */
  #attention = deferred()
  #settle!: { resolve(): void; reject(error: unknown): void }
  #finalize: (() => void) | undefined

  constructor(options: JobOptions, work: JobWork) {
    super()
    this.options = options
    this.id = options.id
    this.type = options.type
    this.#work = work
    this.#rate.rate = checkedSpeed(options.speed ?? 0)
    this.done = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject }
    })
    // Whoever is interested awaits `done`; a job nobody waits for reports by its status.
    this.done.catch(() => {})
  }

  get status(): JobStatus {
    return this.#status
  }

  get progress(): JobProgress {
    return { status: this.#status, current: this.#current, total: this.#total }
  }

  get error(): unknown {
    return this.#error
  }

  /** Whether the job has ended because a request of it failed. */
  get requestFailed(): boolean {
    return this.#error !== undefined && this.#error === this.#requestError
  }

  get cancelled(): boolean {
    return this.#cancelled
  }

  /** Whether it has kept a copy up to date, as mirrors do. */
  get wasReady(): boolean {
    return this.#wasReady
  }

  get paused(): boolean {
    return this.#pauses.held
  }

  get ioStatus(): 'ok' | 'failed' | 'nospace' {
    return this.#ioStatus
  }

  get speed(): number {
    return this.#rate.rate
  }

  /** Begins; the returned promise is `done`. */
  start(): Promise<void> {
    if (!this.#started) {
      this.#started = true
      void this.#live()
    }
    return this.done
  }

  /** No further work is begun until `resume`; what is under way ends. */
  pause(): void {
    this.#check('pause')
    if (this.#userPaused) {
      throw new BlockError('BUSY', `Job is already paused`, { errno: 'EBUSY' })
    }
    this.#userPaused = true
    this.#hold()
  }

  resume(): void {
    // In this order, so that a job that is over says the same as one that runs.
    if (!this.#userPaused) {
      throw new BlockError('BUSY', `Can't resume a job that was not paused`, { errno: 'EBUSY' })
    }
    this.#check('resume')
    this.#userPaused = false
    this.#ioStatus = 'ok'
    this.#pauses.letGo()
  }

  get userPaused(): boolean {
    return this.#userPaused
  }

  /**
   * Ends the job and takes its effects back. Settles when it has concluded. With `soft`, a job
   * that is ready ends well instead, leaving its copy as it is and everybody where they are.
   */
  async cancel({ soft = false }: { readonly soft?: boolean } = {}): Promise<void> {
    this.#check('cancel')
    if (soft && this.#isReady) {
      this.#ending ??= 'leave'
      this.#alert()
      await this.done.catch(() => {})
      return
    }
    this.#cancelled = true
    this.#abort.abort(
      new BlockError('CLOSED', `job '${this.id}' was cancelled`, { errno: 'ECANCELED' }),
    )
    this.#pauses.wake()
    this.#alert()
    this.#finalize?.()
    this.emit('cancelled')
    if (this.#status === 'created') await this.#discard()
    await this.done.catch(() => {})
  }

  /** Bytes a second; 0 is no limit. */
  setSpeed(speed: number): void {
    this.#check('set-speed')
    this.#rate.rate = checkedSpeed(speed)
  }

  /** Lets a job that is ready take effect: the copy replaces the original. */
  requestCompletion(): void {
    this.#check('complete')
    this.#ending = 'complete'
    this.#alert()
  }

  /** `requestCompletion`, and waits for the end; rejects with the error that ended it. */
  async complete(): Promise<void> {
    this.requestCompletion()
    await this.done
  }

  /** Makes the result of a job that waits in `pending` final. */
  async finalize(): Promise<void> {
    this.#check('finalize')
    this.#finalize?.()
    await this.done.catch(() => {})
  }

  /** Forgets a concluded job. */
  dismiss(): void {
    this.#check('dismiss')
    this.#enter('null')
  }

  [Symbol.asyncIterator](): AsyncGenerator<JobProgress> {
    return this.watch()
  }

  /** Progress whenever it or the status changes, at most every `intervalMs`, until the end. */
  async *watch(intervalMs = 250): AsyncGenerator<JobProgress> {
    yield* watchProgress(() => this.progress, this.done, intervalMs)
  }

  /** For draining: like `pause`, but not visible to the user. Settles when work has stopped. */
  async hold(): Promise<void> {
    this.#hold()
    await this.#pauses.idle()
  }

  letGo(): void {
    this.#pauses.letGo()
  }

  async #live(): Promise<void> {
    this.#began = true
    this.#enter('running')
    try {
      await this.#work.run(this.#control())
      this.#abort.signal.throwIfAborted()
      await this.#conclude()
    } catch (error) {
      await this.#fail(error)
    }
    if (!this.options.manualDismiss) this.#enter('null')
  }

  /** It was cancelled before it began. */
  async #discard(): Promise<void> {
    this.#started = true
    await this.#fail(this.#abort.signal.reason)
    if (!this.options.manualDismiss) this.#enter('null')
  }

  async #conclude(): Promise<void> {
    this.#leavePause()
    this.#enter('waiting')
    await this.options.transaction?.meet(this)
    this.#abort.signal.throwIfAborted()
    this.#enter('pending')
    if (this.options.manualFinalize) {
      await new Promise<void>((resolve) => {
        this.#finalize = resolve
      })
      this.#abort.signal.throwIfAborted()
    }
    this.#takesEffect = true
    await this.#work.complete?.()
    this.emit('completed')
    this.#enter('concluded')
    this.#settle.resolve()
  }

  async #fail(error: unknown): Promise<void> {
    this.#leavePause()
    this.#error = error
    this.options.transaction?.failed(this)
    this.#enter('aborting')
    try {
      await this.#work.abort?.()
    } catch (failure) {
      // The first error is the one that explains; this one goes with it.
      if (error instanceof Error && error.cause === undefined) error.cause = failure
    }
    if (this.#began) this.emit('completed')
    this.#enter('concluded')
    this.#settle.reject(error)
  }

  get #isReady(): boolean {
    return this.#status === 'ready' || this.#status === 'standby'
  }

  #control(): JobControl {
    const ending = () => this.#ending
    return {
      get ending() {
        return ending()
      },
      ready: () => {
        this.#wasReady = true
        this.#enter('ready')
        this.emit('ready')
      },
      wait: (event) => this.#wait(event),
      during: (work) => this.#during(work),
      signal: this.#abort.signal,
      pausePoint: () => this.#pausePoint(),
      rest: (signal) => this.#rest(signal),
      throttle: (bytes) => this.#rate.take(bytes, this.#abort.signal),
      advance: (bytes) => {
        this.#current += bytes
      },
      setTotal: (bytes) => {
        this.#total = bytes
      },
      failed: (error, operation) => this.#failed(error, operation),
    }
  }

  async #pausePoint(): Promise<void> {
    while (this.#pauses.held && !this.#abort.signal.aborted) {
      if (this.#status === 'running') this.#enter('paused')
      if (this.#status === 'ready') this.#enter('standby')
      await this.#pauses.resumed
    }
    this.#leavePause()
    this.#abort.signal.throwIfAborted()
  }

  async #rest(signal: AbortSignal): Promise<never> {
    for (;;) {
      await this.#pausePoint()
      signal.throwIfAborted()
      // A pause may have come while the last one ended.
      if (this.#pauses.held) continue
      const aborted = new Promise<void>((resolve) => {
        signal.addEventListener('abort', () => resolve(), { once: true })
      })
      await this.#wait(aborted)
    }
  }

  async #wait(event: Promise<unknown>): Promise<void> {
    if (this.#pauses.held || this.#abort.signal.aborted) return
    await Promise.race([event, this.#attention.promise])
  }

  async #during<T>(work: () => Promise<T>): Promise<T> {
    // Between the end of a pause and here another one may have begun.
    do await this.#pausePoint()
    while (this.#pauses.held)
    return await this.#pauses.during(work)
  }

  #alert(): void {
    this.#attention.resolve()
    this.#attention = deferred()
  }

  async #failed(error: unknown, operation: 'read' | 'write'): Promise<'retry' | 'ignore'> {
    if (this.#abort.signal.aborted) throw error
    const { onSourceError = 'report', onTargetError = 'report' } = this.options
    const action = decide(operation === 'read' ? onSourceError : onTargetError, error, operation)
    this.emit('error', { operation, action, error })
    if (action === 'report') {
      this.#requestError = error
      throw error
    }
    if (action === 'ignore') return 'ignore'
    this.#ioStatus = isNoSpace(error) ? 'nospace' : 'failed'
    if (!this.#userPaused) {
      this.#userPaused = true
      this.#hold()
    }
    await this.#pausePoint()
    return 'retry'
  }

  #hold(): void {
    if (this.#pauses.hold()) this.#alert()
  }

  #leavePause(): void {
    if (this.#status === 'paused') this.#enter('running')
    if (this.#status === 'standby') this.#enter('ready')
  }

  #check(verb: JobVerb): void {
    // In QEMU that is a moment, between two commands.
    const status = this.#takesEffect && this.#status === 'pending' ? 'concluded' : this.#status
    if (permitted[verb].includes(status)) return
    throw new BlockError(
      'BUSY',
      `Job '${this.id}' in state '${status}' cannot accept command verb '${verb}'`,
      { errno: 'EPERM' },
    )
  }

  #enter(status: JobStatus): void {
    if (!successors[this.#status].includes(status)) {
      throw new TypeError(`job '${this.id}' cannot go from ${this.#status} to ${status}`)
    }
    this.#status = status
    this.emit('status', status)
  }
}

/** Bytes a second; 0 is no limit. */
function checkedSpeed(speed: number): number {
  if (Number.isSafeInteger(speed) && speed >= 0) return speed
  throw new BlockError('INVALID_ARGUMENT', "Parameter 'speed' expects a non-negative value")
}
