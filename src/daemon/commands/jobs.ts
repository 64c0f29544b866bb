/** Jobs: `job-*`, and the older `block-job-*` that name the job by `device`. */
import { setImmediate as nextTurn } from 'node:timers/promises'
import { BlockError } from '../../errors.ts'
import type { Job } from '../../job/job.ts'
import { command } from '../command.ts'
import { QmpError } from '../errors.ts'
import { jobError } from '../job-events.ts'
import { ioStatus, jobStatus, jobType } from '../schema/job-types.ts'
import { bool, empty, int, list, object, optional, required, str } from '../schema/types.ts'
import type { StorageDaemon } from '../storage-daemon.ts'

const jobInfo = object('JobInfo', {
  id: required(str, 'The job.'),
  type: required(jobType, 'What it does.'),
  status: required(jobStatus, 'Where in its life it is.'),
  'current-progress': required(int, 'Bytes done.'),
  'total-progress': required(int, 'Bytes to do, as far as that is known.'),
  error: optional(str, 'Why it failed.'),
})

const blockJobInfo = object('BlockJobInfo', {
  type: required(str, 'What it does.'),
  device: required(str, 'The job.'),
  len: required(int, 'Bytes to do.'),
  offset: required(int, 'Bytes done.'),
  busy: required(bool, 'Whether it is working at this moment.'),
  paused: required(bool, 'Whether it was paused by a user or by an error.'),
  speed: required(int, 'Limit in bytes a second; 0 is no limit.'),
  'io-status': required(ioStatus, 'Whether an error has paused it.'),
  ready: required(bool, 'Whether it can be completed.'),
  status: required(jobStatus, 'Where in its life it is.'),
  'auto-finalize': required(bool, 'Whether it becomes final by itself.'),
  'auto-dismiss': required(bool, 'Whether it is forgotten by itself.'),
  error: optional(str, 'Why it failed.'),
})

const byId = { id: required(str, 'The job.') }
const byDevice = { device: required(str, 'The job.') }

type JobArg = { readonly id: string } | { readonly device: string }
type Verb = (job: Job, args: never) => void | Promise<void>

/** The verbs, for both families of names. */
const verbs = {
  pause: {
    doc: 'Pauses a job: it begins no further work until it is resumed.',
    run: (job: Job) => job.pause(),
  },
  resume: {
    doc: 'Goes on with a job that was paused, by a user or by an error.',
    run: (job: Job) => job.resume(),
  },
  cancel: {
    doc: 'Cancels a job. It takes back what it did; its events tell when that is done.',
    run: (job: Job) => begin(job.cancel()),
  },
  complete: {
    doc: 'Completes a job that is ready: the copy replaces the original.',
    run: (job: Job) => job.requestCompletion(),
  },
  finalize: {
    doc: 'Makes the result of a job final that is pending because of `auto-finalize: false`.',
    run: (job: Job) => begin(job.finalize()),
  },
  dismiss: {
    doc: 'Forgets a concluded job that is still listed because of `auto-dismiss: false`.',
    run: (job: Job) => job.dismiss(),
  },
} satisfies Record<string, { doc: string; run: Verb }>

type VerbName = keyof typeof verbs

/** Refusals come at once; the rest is told by events, and the monitor need not wait for it. */
async function begin(work: Promise<void>): Promise<void> {
  await Promise.race([work, nextTurn()])
}

function jobCommand(verb: VerbName) {
  return command({
    name: `job-${verb}`,
    topic: 'Jobs',
    doc: verbs[verb].doc,
    args: object('JobIdArg', byId),
    run: ({ id }, { daemon }) => verbs[verb].run(daemon.jobs.get(id)),
  })
}

function blockJobCommand(verb: VerbName) {
  // QEMU names the job `id` in the two newest of these commands.
  const named = verb === 'finalize' || verb === 'dismiss'
  const force = {
    force: optional(
      bool,
      'Cancel a job that is ready, or paused, at once. Otherwise one that is ready ends well, ' +
        'and leaves its copy as it is then.',
    ),
  }
  const members = named ? byId : verb === 'cancel' ? { ...byDevice, ...force } : byDevice
  return command<JobArg, never>({
    name: `block-job-${verb}`,
    topic: 'Jobs',
    doc: `As \`job-${verb}\`.`,
    args: object(`BlockJob${verb}Arg`, members as typeof byDevice),
    run(args, { daemon }) {
      const job = blockJob(daemon, args)
      if (verb === 'cancel') return cancelBlockJob(job, args)
      return verbs[verb].run(job)
    },
  })
}

function cancelBlockJob(job: Job, args: JobArg): Promise<void> {
  const force = 'force' in args && args.force === true
  if (!force && job.userPaused) {
    throw new BlockError('BUSY', `The block job for device '${job.id}' is currently paused`)
  }
  return begin(job.cancel({ soft: !force }))
}

function blockJob(daemon: StorageDaemon, args: JobArg): Job {
  const id = 'id' in args ? args.id : args.device
  const job = daemon.jobs.jobs.get(id)
  if (job && isBlockJob(job)) return job
  throw new QmpError('DeviceNotActive', `Block job '${id}' not found`)
}

/** What works on disks that are in use, unlike what makes or changes an image. */
function isBlockJob({ type }: Job): boolean {
  return type !== 'create' && type !== 'amend'
}

const everyVerb = Object.keys(verbs) as VerbName[]

export const jobCommands = [
  command({
    name: 'query-jobs',
    topic: 'Jobs',
    doc: 'Lists the jobs that there are.',
    args: empty,
    returns: list(jobInfo),
    concurrent: true,
    run: (_, { daemon }) =>
      [...daemon.jobs.jobs.values()].reverse().map((job) => ({
        id: job.id,
        type: job.type,
        status: job.status,
        'current-progress': job.progress.current,
        'total-progress': job.progress.total,
        error: jobError(job),
      })),
  }),
  ...everyVerb.map(jobCommand),
  command({
    name: 'query-block-jobs',
    topic: 'Jobs',
    doc: 'Lists the jobs that work on disks.',
    args: empty,
    returns: list(blockJobInfo),
    concurrent: true,
    run: (_, { daemon }) =>
      [...daemon.jobs.jobs.values()].filter(isBlockJob).reverse().map(describeBlockJob),
  }),
  ...everyVerb.map(blockJobCommand),
  command({
    name: 'block-job-set-speed',
    topic: 'Jobs',
    doc: 'Limits the rate of a job.',
    args: object('BlockJobSetSpeedArg', {
      ...byDevice,
      speed: required(int, 'Bytes a second; 0 is no limit.'),
    }),
    run({ device, speed }, { daemon }) {
      const job = blockJob(daemon, { device })
      checkSpeed(speed)
      job.setSpeed(speed)
    },
  }),
]

function describeBlockJob(job: Job) {
  const { current, total, status } = job.progress
  return {
    type: job.type,
    device: job.id,
    len: total,
    offset: current,
    busy: status === 'running',
    // As QEMU has it of one that was ready: its source is held still until it is finalized.
    paused: job.paused || (status === 'pending' && job.wasReady),
    speed: job.speed,
    'io-status': job.ioStatus,
    ready: status === 'ready' || status === 'standby',
    status,
    'auto-finalize': !job.options.manualFinalize,
    'auto-dismiss': !job.options.manualDismiss,
    error: jobError(job),
  }
}

export function checkSpeed(speed: number): void {
  if (Number.isSafeInteger(speed) && speed >= 0) return
  throw new BlockError('INVALID_ARGUMENT', "Parameter 'speed' expects a non-negative value")
}
