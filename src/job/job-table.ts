/** All jobs of one process, by id. A job leaves the table when it reaches `null`. */
import diagnostics from 'node:diagnostics_channel'
import { EventEmitter } from 'node:events'
import { BlockError, invalid } from '../errors.ts'
import { Job, type JobOptions } from './job.ts'
import type { JobStatus } from './status.ts'
import type { JobWork } from './work.ts'

/** `{ id, type, status }` for every change. */
const jobChannel = diagnostics.channel('job:status')

interface TableEvents {
  /** A job has been created; listen to the job for all else. */
  job: [Job]
  status: [Job, JobStatus]
}

export class JobTable extends EventEmitter<TableEvents> {
  readonly #jobs = new Map<string, Job>()
  #counter = 0

  get jobs(): ReadonlyMap<string, Job> {
    return this.#jobs
  }

  /** The job of that id; throws `INVALID_ARGUMENT` when there is none. */
  get(id: string): Job {
    const job = this.#jobs.get(id)
    if (job) return job
    throw new BlockError('INVALID_ARGUMENT', `Job not found`, { errno: 'ENOENT' })
  }

  /** An id that no job has. */
  freeId(prefix: string): string {
    while (this.#jobs.has(`${prefix}${this.#counter}`)) this.#counter++
    return `${prefix}${this.#counter++}`
  }

  /** Refuses an id that is malformed or taken. */
  checkId(id: string): void {
    if (!/^[A-Za-z][A-Za-z0-9._-]*$/.test(id)) {
      throw invalid(`Invalid job ID '${id}'`)
    }
    if (this.#jobs.has(id)) {
      throw new BlockError('INVALID_ARGUMENT', `Job ID '${id}' already in use`, { errno: 'EEXIST' })
    }
  }

  /** Creates a job and starts it in the next turn, so that the caller can listen to it first. */
  start(options: JobOptions, work: JobWork): Job {
    const job = this.create(options, work)
    queueMicrotask(() => job.start())
    return job
  }

  /** Creates a job that its owner starts, or cancels. */
  create(options: JobOptions, work: JobWork): Job {
    this.checkId(options.id)
    const job = new Job(options, work)
    this.#jobs.set(job.id, job)
    job.on('status', (status) => {
      if (status === 'null') this.#jobs.delete(job.id)
      jobChannel.publish({ id: job.id, type: job.type, status })
      this.emit('status', job, status)
    })
    // Without a listener, Node would throw for an event called `error`.
    job.on('error', () => {})
    this.emit('job', job)
    this.emit('status', job, 'created')
    options.transaction?.add(job)
    return job
  }

  /** Cancels everything that runs and waits for the ends. */
  async cancelAll(): Promise<void> {
    const running = [...this.#jobs.values()].filter((job) => job.status !== 'concluded')
    await Promise.all(
      running.map(async (job) => {
        await job.cancel().catch(() => {})
        // One that takes effect cannot be cancelled any more.
        await job.done.catch(() => {})
      }),
    )
  }
}
