/**
 * Jobs that end alike: all of them well, or none. A job whose work is done waits here until the
 * work of all others is done too; when one fails, or is cancelled, all others are.
 */
import type { Job } from './job.ts'

export class JobTransaction {
  readonly #jobs = new Set<Job>()
  readonly #waiting = new Set<Job>()
  readonly #met: Promise<void>
  #meet = () => {}
  #failed = false

  constructor() {
    this.#met = new Promise((resolve) => {
      this.#meet = resolve
    })
  }

  /** Before any of them is started. */
  add(job: Job): void {
    this.#jobs.add(job)
  }

  /** Settles when the work of all jobs is done. A job that fails meanwhile cancels the others. */
  async meet(job: Job): Promise<void> {
    this.#waiting.add(job)
    if (this.#waiting.size === this.#jobs.size) this.#meet()
    const cancelled = new Promise<void>((resolve) => job.once('cancelled', () => resolve()))
    await Promise.race([this.#met, cancelled])
  }

  /** A job has failed: the others are cancelled. Nobody waits here for their ends. */
  failed(job: Job): void {
    if (this.#failed) return
    this.#failed = true
    for (const other of this.#jobs) {
      if (other === job || other.cancelled) continue
      if (['concluded', 'null', 'aborting'].includes(other.status)) continue
      // It reports by its own status.
      void other.cancel().catch(() => {})
    }
  }
}
