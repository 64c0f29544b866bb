/** How far a job is, and following it. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { JobStatus } from './status.ts'

export interface JobProgress {
  readonly status: JobStatus
  /** Bytes done and bytes to do; the latter may grow. */
  readonly current: number
  readonly total: number
}

/** `progress` at once, at most every `intervalMs`, and when `done` has settled, which ends it. */
export async function* watchProgress(
  progress: () => JobProgress,
  done: Promise<void>,
  intervalMs: number,
): AsyncGenerator<JobProgress> {
  const ended = done.then(
    () => true,
    () => true,
  )
  let over = false
  while (!over) {
    yield progress()
    const stop = new AbortController()
    over = await Promise.race([ended, sleep(intervalMs, false, { signal: stop.signal })])
    stop.abort()
  }
  yield progress()
}
