/** Tells monitors how jobs fare: what changes in the job table, as QMP's events. */
import { errnoOf, strerror } from '../errors.ts'
import type { Job } from '../job/job.ts'
import type { JobTable } from '../job/job-table.ts'

type Emit = (event: string, data: Readonly<Record<string, unknown>>) => void

export function reportJobs(jobs: JobTable, emit: Emit): void {
  jobs.on('job', (job) => {
    job.on('completed', () => reportEnd(job, emit))
    job.on('ready', () => emit('BLOCK_JOB_READY', describe(job)))
    job.on('error', ({ operation, action }) => {
      emit('BLOCK_JOB_ERROR', { device: job.id, operation, action })
    })
  })
  jobs.on('status', (job, status) => {
    emit('JOB_STATUS_CHANGE', { status, id: job.id })
    if (status === 'pending' && job.options.manualFinalize) {
      emit('BLOCK_JOB_PENDING', { type: job.type, id: job.id })
    }
  })
}

function reportEnd(job: Job, emit: Emit): void {
  // Creating an image is a job without a disk of its own.
  if (job.type === 'create' || job.type === 'amend') return
  if (job.cancelled) emit('BLOCK_JOB_CANCELLED', describe(job))
  else emit('BLOCK_JOB_COMPLETED', { ...describe(job), error: jobError(job) })
}

function describe(job: Job) {
  const { current, total } = job.progress
  return { device: job.id, len: total, offset: current, speed: job.speed, type: job.type }
}

/** Why a job failed, for people; undefined when it has not. */
export function jobError(job: Job): string | undefined {
  const { error } = job
  if (error === undefined) return undefined
  if (job.cancelled) return 'Operation canceled'
  const errno = job.requestFailed ? errnoOf(error) : undefined
  // As QEMU puts it. The library's error says which request that was.
  if (errno !== undefined) return strerror(errno)
  const message = error instanceof Error ? error.message : String(error)
  // What follows the first line is a hint for people at a terminal.
  return message.split('\n')[0]
}
