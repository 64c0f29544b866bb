/** What a job does, and what its work sees of it: the two sides at which `Job` and the kinds of jobs meet. */
export interface JobWork {
  /** The work itself. Rejects when it failed, or with the signal's reason when cancelled. */
  run(control: JobControl): Promise<void>
  /** Makes the result final. */
  complete?(): Promise<void>
  /** Takes everything back after a failure or a cancel. */
  abort?(): Promise<void>
}

/** The job as its own work sees it. */
export interface JobControl {
  readonly signal: AbortSignal
  /** Waits while the job is paused. To be passed before each piece of work. */
  pausePoint(): Promise<void>
  /** From now on the job can be completed, and cancelled softly. */
  ready(): void
  /** How the user wants a job that is ready to end: with its effect, or without; if already. */
  readonly ending: 'complete' | 'leave' | undefined
  /** Waits for `event`; shorter when the job is to pause, to end, or has been cancelled. */
  wait(event: Promise<unknown>): Promise<void>
  /** Runs requests of the job as soon as it is not paused; a drain waits for their end. */
  during<T>(work: () => Promise<T>): Promise<T>
  /** For work that others do: only pauses, when asked to, until `signal` fires; then rejects. */
  rest(signal: AbortSignal): Promise<never>
  /** Waits until the speed limit allows `bytes` more. */
  throttle(bytes: number): Promise<void>
  advance(bytes: number): void
  setTotal(bytes: number): void
  /**
   * Reports a failed request. Returns when it is to be tried again or, with `ignore`, passed over;
   * rejects with the error where the policy gives up.
   */
  failed(error: unknown, operation: 'read' | 'write'): Promise<'retry' | 'ignore'>
}
