/** The jobs of a random walk: begun, disturbed, ended, and looked at when they have ended. */
import { setImmediate as nextTurn } from 'node:timers/promises'
import { MiB } from '../../../src/bytes/range.ts'
import type { Start, WalkGround } from './ground.ts'

/** What a job was begun for, and what has to hold once it has ended. */
interface Running {
  readonly id: string
  readonly ended: (error: unknown) => void | Promise<void>
  outcome?: { readonly error: unknown }
}

const verbs = ['pause', 'resume', 'set-speed', 'end', 'end', 'wait', 'wait', 'wait'] as const

export class WalkJobs {
  readonly #ground: WalkGround
  readonly #running: Running[] = []
  /** Runs after each job: whatever it did to the graph, the disk is the same. */
  readonly #verify: () => Promise<void>

  constructor(ground: WalkGround, verify: () => Promise<void>) {
    this.#ground = ground
    this.#verify = verify
  }

  /** What every job is begun with: a name, a speed, and who finalizes and dismisses it. */
  options(): Record<string, unknown> {
    const { random } = this.#ground
    return {
      'job-id': this.#ground.newName('job'),
      speed: random.pick([0, 0, 8 * MiB]),
      ...(random.chance(0.2) && { 'auto-finalize': false }),
      ...(random.chance(0.2) && { 'auto-dismiss': false }),
    }
  }

  /** Begins a job; false when it was refused, because of other jobs. */
  async begin(command: Start, args: object, ended: Running['ended'] = () => {}): Promise<boolean> {
    const given = { ...this.options(), ...args } as Record<string, unknown>
    if (!(await this.#ground.attempt(command, given))) {
      await ended(new Error('not started'))
      return false
    }
    this.follow(String(given['job-id']), ended)
    return true
  }

  /** Looks at a job that has just been begun when it has ended. */
  follow(id: string, ended: Running['ended'] = () => {}): void {
    const running: Running = { id, ended }
    this.#running.push(running)
    const job = this.#ground.daemon.jobs.jobs.get(id)
    if (!job) running.outcome = { error: undefined }
    job?.done.then(
      () => {
        running.outcome = { error: undefined }
      },
      (error) => {
        running.outcome = { error }
      },
    )
  }

  /** Does something to a job that runs. */
  async disturb(): Promise<void> {
    const { random, daemon } = this.#ground
    const ids = [...daemon.jobs.jobs.keys()]
    if (ids.length === 0) return
    const id = random.pick(ids)
    const verb = random.pick(verbs)
    if (verb === 'end') await this.#end(id)
    else if (verb === 'wait') await this.#wait(id)
    else if (verb === 'set-speed') {
      const speed = random.pick([0, 0, MiB, 64 * MiB])
      await this.#ground.attempt('block-job-set-speed', { device: id, speed })
    } else await this.#ground.attempt(`job-${verb}`, { id })
  }

  /** Gives a job time to end, or to get ready, and resumes it when it has stopped. */
  async #wait(id: string): Promise<void> {
    const job = this.#ground.daemon.jobs.get(id)
    if (job.paused) await this.#ground.attempt('job-resume', { id })
    for (let turn = 0; turn < 300 && job.status === 'running'; turn++) await nextTurn()
    if (job.status === 'ready') await this.#ground.attempt('job-complete', { id })
    else await this.#close(id)
  }

  /** Completes a job that is ready, or cancels it. */
  async #end(id: string): Promise<void> {
    const job = this.#ground.daemon.jobs.jobs.get(id)
    if (!job) return
    if (await this.#close(id)) return
    if (job.paused) await this.#ground.attempt('job-resume', { id })
    const { random } = this.#ground
    if (job.status === 'ready' && random.chance(0.6)) {
      await this.#ground.attempt('job-complete', { id })
    } else if (random.chance(0.5)) await this.#ground.attempt('job-cancel', { id })
    else {
      const force = random.chance(0.5)
      await this.#ground.attempt('block-job-cancel', { device: id, force })
    }
  }

  /** Finalizes or dismisses a job that waits for it; true when it did. */
  async #close(id: string): Promise<boolean> {
    const status = this.#ground.daemon.jobs.jobs.get(id)?.status
    if (status === 'pending' && this.#ground.random.chance(0.8)) {
      return await this.#ground.attempt('job-finalize', { id })
    }
    return status === 'concluded' && (await this.#ground.attempt('job-dismiss', { id }))
  }

  /** Looks at what has come of the jobs that have ended. */
  async reap(): Promise<void> {
    await Promise.resolve()
    const { jobs } = this.#ground.daemon.jobs
    for (const running of [...this.#running]) {
      const status = jobs.get(running.id)?.status
      if (!running.outcome || (status && status !== 'concluded' && status !== 'null')) continue
      this.#running.splice(this.#running.indexOf(running), 1)
      const { error } = running.outcome
      this.#ground.note(`${running.id} ended: ${error ?? 'well'}`)
      const expected = /cancel|spill area is full/i
      if (error !== undefined && !expected.test(String(error))) this.#ground.checkFault(error)
      await running.ended(error)
      await this.#verify()
    }
  }

  /** Ends all of them. */
  async end(): Promise<void> {
    const { jobs } = this.#ground.daemon.jobs
    while (jobs.size > 0 || this.#running.length > 0) {
      for (const id of [...jobs.keys()]) await this.#end(id)
      await this.reap()
      await nextTurn()
    }
  }
}
